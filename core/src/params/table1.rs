//! Table 1 of the paper (Gao et al., ICML 2024): parameters and bytes of LoRA and FourierFT, sixteen rows.
//!
//! Every cell is computed from the model's layers and carries beside it what the paper prints. Most cells follow one
//! rule, that of [`super::units`]. The others are listed below (`lora_departure`, `fourierft_departure`) with the paper's text and a note that says
//! where it comes from; the numbers ([`Cell::count`]) are always the computed ones.

use serde::Serialize;

use super::{BaseModel, Count, ParamsError, fourierft, lora, units};

/// One row of the table: a model with one setting of each method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The base model.
    pub model: BaseModel,
    /// The LoRA half, whose setting is the rank `r`.
    pub lora: Cell,
    /// The FourierFT half, whose setting is the number `n` of coefficients per layer.
    pub fourierft: Cell,
}

/// One method's half of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// The rank or the number of coefficients that [`Cell::count`] is for.
    pub setting: u64,
    /// The computed size.
    #[serde(flatten)]
    pub count: Count,
    /// What the paper prints.
    pub printed: Printed,
    /// Where the printed text departs from the rule of [`super::units`]: how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// The text of a [`Cell`] in the paper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Printed {
    /// `r` or `n`.
    pub setting: u64,
    /// Trainable parameters, as `147K`.
    pub parameters: String,
    /// Bytes, as `574KB`.
    pub bytes: String,
}

/// What the paper prints where its own rule would give something else, and how it came to that.
#[derive(Default)]
struct Departure {
    setting: Option<u64>,
    parameters: Option<&'static str>,
    bytes: Option<&'static str>,
    note: &'static str,
}

/// A departure in the bytes alone.
fn prints_bytes(bytes: &'static str, note: &'static str) -> Option<Departure> {
    Some(Departure { bytes: Some(bytes), note, ..Departure::default() })
}

fn cell(setting: u64, count: Count, departure: Option<Departure>) -> Cell {
    let departure = departure.unwrap_or_default();
    Cell {
        setting,
        count,
        printed: Printed {
            setting: departure.setting.unwrap_or(setting),
            parameters: departure.parameters.map_or_else(|| units::count(count.parameters), str::to_owned),
            bytes: departure.bytes.map_or_else(|| units::bytes(count.bytes), str::to_owned),
        },
        note: (!departure.note.is_empty()).then_some(departure.note),
    }
}

/// LLaMA's LoRA bytes.
const MB_OF_1000_KB: &str = "the paper's MB is 1000 KB of 1024 bytes in this cell";

/// How the paper prints LoRA of rank `r` on `model`, where its rule gives something else.
fn lora_departure(model: BaseModel, r: u64) -> Option<Departure> {
    match (model, r) {
        (BaseModel::RobertaBase, 4) => {
            prints_bytes("574KB", "the paper's bytes follow from its rounded count: 147,000 × 4 / 1024")
        }
        (BaseModel::Gpt2Medium, 4) => Some(Departure {
            parameters: Some("350K"),
            bytes: Some("1.34MB"),
            note: "the paper takes LoRA's own figure, 0.35 M; its layers hold as many as RoBERTa Large's, 393K",
            ..Departure::default()
        }),
        (BaseModel::Gpt2Large, 8) => prints_bytes(
            "5.74MB",
            "the paper's bytes follow from its rounded count, its MB being 1000 KB: 1,470,000 × 4 / 1,024,000",
        ),
        (BaseModel::Llama2_7b, 16) => prints_bytes("32.8MB", MB_OF_1000_KB),
        (BaseModel::Llama2_7b, 64) => Some(Departure {
            parameters: Some("33.5M"),
            bytes: Some("131.1MB"),
            note: "the paper cuts 33,554,432 off instead of rounding it; its MB is 1000 KB of 1024 bytes in this cell",
            ..Departure::default()
        }),
        (BaseModel::Llama2_13b, 16) => prints_bytes("51.2MB", MB_OF_1000_KB),
        (BaseModel::Llama2_13b, 64) => prints_bytes("204.8MB", MB_OF_1000_KB),
        (BaseModel::VitLarge, 8) => {
            prints_bytes("2.93MB", "786,432 × 4 bytes are 3 MB, as in the paper's other rows; 2.93 is 3000 / 1024")
        }
        _ => None,
    }
}

/// How the paper prints FourierFT with `n` coefficients on `model`, where its rule gives something else.
fn fourierft_departure(model: BaseModel, n: u64) -> Option<Departure> {
    match (model, n) {
        (BaseModel::RobertaBase, 1_000) => Some(Departure {
            setting: Some(200),
            note: "the paper prints n = 200; its 24K parameters are n = 1000",
            ..Departure::default()
        }),
        (BaseModel::RobertaLarge, 200) => prints_bytes("36.5KB", "a misprint for 37.5: 9,600 × 4 / 1024"),
        (BaseModel::RobertaLarge, 1_000) => prints_bytes(
            "183KB",
            "0.183 MB of 1024² bytes written as KB; the paper's GPT-2 Medium row has the same count as 188KB",
        ),
        (BaseModel::Gpt2Large, 1_000) => {
            prints_bytes("282KB", "twice the rounded 141KB of the row above; 72,000 × 4 / 1024 is 281.25")
        }
        (BaseModel::Llama2_13b, 1_000) => prints_bytes("312KB", "312.5 rounded down"),
        (BaseModel::VitBase, 10_000) => Some(Departure {
            parameters: Some("239K"),
            bytes: Some("934KB"),
            note: "n · L is 240,000; the paper prints 239K, and its bytes follow from that",
            ..Departure::default()
        }),
        _ => None,
    }
}

/// LoRA of rank `rank` on `model`, beside what the paper prints or would print.
///
/// # Errors
/// [`ParamsError::Overflow`].
pub fn lora_cell(model: BaseModel, rank: u64) -> Result<Cell, ParamsError> {
    Ok(cell(rank, lora(&model.layers(), rank)?, lora_departure(model, rank)))
}

/// FourierFT with `n` coefficients per layer on `model`, beside what the paper prints or would print.
///
/// # Errors
/// [`ParamsError::TooManyEntries`], [`ParamsError::Overflow`].
pub fn fourierft_cell(model: BaseModel, n: u64) -> Result<Cell, ParamsError> {
    Ok(cell(n, fourierft(&model.layers(), n)?, fourierft_departure(model, n)))
}

/// The settings of the paper's rows: model, LoRA's rank, FourierFT's coefficients per layer.
const SETTINGS: [(BaseModel, u64, u64); 16] = [
    (BaseModel::RobertaBase, 4, 200),
    (BaseModel::RobertaBase, 8, 1_000),
    (BaseModel::RobertaLarge, 4, 200),
    (BaseModel::RobertaLarge, 8, 1_000),
    (BaseModel::Gpt2Medium, 4, 500),
    (BaseModel::Gpt2Medium, 8, 1_000),
    (BaseModel::Gpt2Large, 4, 500),
    (BaseModel::Gpt2Large, 8, 1_000),
    (BaseModel::Llama2_7b, 16, 1_000),
    (BaseModel::Llama2_7b, 64, 2_000),
    (BaseModel::Llama2_13b, 16, 1_000),
    (BaseModel::Llama2_13b, 64, 2_000),
    (BaseModel::VitBase, 8, 3_000),
    (BaseModel::VitBase, 16, 10_000),
    (BaseModel::VitLarge, 8, 3_000),
    (BaseModel::VitLarge, 16, 10_000),
];

/// The whole table, in the paper's order.
///
/// # Errors
/// None in practice: every setting of the table fits. The signature is that of the counts it calls.
pub fn table1() -> Result<Vec<Row>, ParamsError> {
    SETTINGS
        .into_iter()
        .map(|(model, rank, n)| Ok(Row { model, lora: lora_cell(model, rank)?, fourierft: fourierft_cell(model, n)? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 1 as printed: model, r, parameters, bytes, n, parameters, bytes.
    const PAPER: &str = "\
        RoBERTa Base|4|147K|574KB|200|4.8K|18.8KB
        RoBERTa Base|8|295K|1.13MB|200|24K|94KB
        RoBERTa Large|4|393K|1.5MB|200|9.6K|36.5KB
        RoBERTa Large|8|786K|3MB|1000|48K|183KB
        GPT-2 Medium|4|350K|1.34MB|500|24K|94KB
        GPT-2 Medium|8|786K|3MB|1000|48K|188KB
        GPT-2 Large|4|737K|2.81MB|500|36K|141KB
        GPT-2 Large|8|1.47M|5.74MB|1000|72K|282KB
        LLaMA-2 7B|16|8.39M|32.8MB|1000|64K|250KB
        LLaMA-2 7B|64|33.5M|131.1MB|2000|128K|500KB
        LLaMA-2 13B|16|13.1M|51.2MB|1000|80K|312KB
        LLaMA-2 13B|64|52.4M|204.8MB|2000|160K|625KB
        ViT Base|8|295K|1.13MB|3000|72K|281KB
        ViT Base|16|590K|2.25MB|10000|239K|934KB
        ViT Large|8|786K|2.93MB|3000|144K|563KB
        ViT Large|16|1.57M|6MB|10000|480K|1.83MB";

    #[test]
    fn every_printed_row() {
        let rows = table1().unwrap();
        assert_eq!(rows.len(), PAPER.lines().count());
        for (row, line) in rows.iter().zip(PAPER.lines()) {
            let printed = |cell: &Cell| {
                let Printed { setting, parameters, bytes } = &cell.printed;
                format!("{setting}|{parameters}|{bytes}")
            };
            let got = format!("{}|{}|{}", row.model.title(), printed(&row.lora), printed(&row.fourierft));
            assert_eq!(got, line.trim());
        }
    }

    /// A note stands exactly where the printed cell is not what the rule gives.
    #[test]
    fn departures_are_noted_and_real() {
        for row in table1().unwrap() {
            for cell in [&row.lora, &row.fourierft] {
                let by_rule = Printed {
                    setting: cell.setting,
                    parameters: units::count(cell.count.parameters),
                    bytes: units::bytes(cell.count.bytes),
                };
                assert_eq!(cell.note.is_some(), by_rule != cell.printed, "{:?} {cell:?}", row.model);
            }
        }
    }

    /// The computed numbers themselves: `n · L` and `2 · r · width · L`, four bytes each.
    #[test]
    fn exact_counts() {
        let rows = table1().unwrap();
        let exact: Vec<(u64, u64)> =
            rows.iter().map(|row| (row.lora.count.parameters, row.fourierft.count.parameters)).collect();
        assert_eq!(
            exact,
            [
                (147_456, 4_800),
                (294_912, 24_000),
                (393_216, 9_600),
                (786_432, 48_000),
                (393_216, 24_000),
                (786_432, 48_000),
                (737_280, 36_000),
                (1_474_560, 72_000),
                (8_388_608, 64_000),
                (33_554_432, 128_000),
                (13_107_200, 80_000),
                (52_428_800, 160_000),
                (294_912, 72_000),
                (589_824, 240_000),
                (786_432, 144_000),
                (1_572_864, 480_000),
            ]
        );
        for row in rows {
            assert_eq!(row.lora.count.bytes, 4 * row.lora.count.parameters);
            assert_eq!(row.fourierft.count.bytes, 4 * row.fourierft.count.parameters);
        }
    }

    #[test]
    fn serialises() {
        let row = &table1().unwrap()[1];
        assert_eq!(
            serde_json::to_value(row).unwrap(),
            serde_json::json!({
                "model": "roberta-base",
                "lora": {"setting": 8, "parameters": 294_912, "bytes": 1_179_648,
                         "printed": {"setting": 8, "parameters": "295K", "bytes": "1.13MB"}},
                "fourierft": {"setting": 1000, "parameters": 24_000, "bytes": 96_000,
                              "printed": {"setting": 200, "parameters": "24K", "bytes": "94KB"},
                              "note": "the paper prints n = 200; its 24K parameters are n = 1000"},
            })
        );
    }
}
