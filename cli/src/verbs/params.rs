//! `timbre params`: how many parameters an adapter takes.

use clap::Args;
use timbre::gguf::Gguf;
use timbre::params::shapes::query_value_layers;
use timbre::params::{BaseModel, Count, LayerShape, fourierft, lora, table1, units};

use crate::output::{self, Outcome};

/// Count an adapter's parameters and bytes: FourierFT beside LoRA, on query and value of every attention block
///
/// Without --model, the paper's Table 1.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  timbre params                                  the paper's Table 1\n  timbre params --model llama2-7b -n 1000 --lora-rank 64\n  timbre params --model smollm2.gguf -n 1000"
)]
pub struct Params {
    /// A GGUF file, or roberta-base, roberta-large, gpt2-medium, gpt2-large, llama2-7b, llama2-13b, vit-base, vit-large
    #[arg(long, value_name = "NAME|M.gguf")]
    model: Option<String>,
    /// Coefficients per layer
    #[arg(short, value_name = "N", default_value_t = 1000)]
    n: u64,
    /// LoRA's rank
    #[arg(long, value_name = "R", default_value_t = 8)]
    lora_rank: u64,
    /// Print JSON: one object, or one a row of the table
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    model: &'a str,
    layers: usize,
    n: u64,
    fourierft: Count,
    lora_rank: u64,
    lora: Count,
}

impl Params {
    pub fn run(self) -> Outcome {
        let Some(model) = &self.model else { return self.table() };
        let layers: Vec<LayerShape> = match model.parse::<BaseModel>() {
            Ok(known) => known.layers(),
            Err(unknown) if !std::path::Path::new(model).exists() => return Err(unknown.into()),
            Err(_) => query_value_layers(&*Gguf::open(model)?)?,
        };
        let report = Report {
            model,
            layers: layers.len(),
            n: self.n,
            fourierft: fourierft(&layers, self.n)?,
            lora_rank: self.lora_rank,
            lora: lora(&layers, self.lora_rank)?,
        };
        if self.json {
            return output::json(&report);
        }
        let line = |name: &str, count: Count| {
            output::line(&format!(
                "{name:<22}{:>8} parameters {:>9}",
                units::count(count.parameters),
                units::bytes(count.bytes)
            ))
        };
        output::line(&format!("{model}: {} layers (query and value)", report.layers))?;
        line(&format!("FourierFT n = {}", self.n), report.fourierft)?;
        line(&format!("LoRA r = {}", self.lora_rank), report.lora)
    }

    fn table(&self) -> Outcome {
        let rows = table1()?;
        if self.json {
            return rows.iter().try_for_each(output::json);
        }
        output::line("                    LoRA                          FourierFT")?;
        output::line("model            r  parameters      bytes         n  parameters      bytes")?;
        for row in rows {
            let (l, f) = (&row.lora, &row.fourierft);
            output::line(&format!(
                "{:<14}{:>4}{:>12}{:>11}{:>10}{:>12}{:>11}",
                row.model.title(),
                l.setting,
                l.printed.parameters,
                l.printed.bytes,
                f.setting,
                f.printed.parameters,
                f.printed.bytes
            ))?;
        }
        Ok(())
    }
}
