//! `timbre chat`: a conversation, in which adapters can be swapped.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use timbre::model::{ActiveAdapters, BoundAdapter, Model};
use timbre::session::{
    Conversation, GenerateOptions, SamplerOptions, Session, SessionError, SwapPolicy, TemplateError,
};

use crate::args::{AdapterArgs, ModelArgs, SamplingArgs};
use crate::output::{self, Outcome};

const HELP: &str = "\
/adapter NAME|PATH   swap to an adapter (a name used before, or a path); the history is read anew under it
/keep NAME|PATH      the same, keeping the history as the previous adapter read it
/adapter none        back to the base
/adapters            adapters loaded so far
/clear               forget the conversation
/quit                leave";

/// Converse; /adapter NAME swaps inside the conversation
#[derive(Args)]
#[command(
    after_help = "Example:\n  timbre chat --model smollm2.gguf --adapter assets/adapters/devil\n\nInside:\n  /help lists the commands"
)]
pub struct Chat {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Most tokens of a reply
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 512)]
    tokens: usize,
    /// A system message to begin with
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

/// Adapters by the name they are swapped by: the last part of their path.
type Loaded = BTreeMap<String, Arc<BoundAdapter>>;

impl Chat {
    pub fn run(self) -> Outcome {
        let sampler = self.sampling.options()?;
        let model = self.model.open()?;
        let mut conversation = conversation(&model)?;
        let mut loaded = Loaded::new();
        let mut active = Vec::new();
        for adapter in &self.adapters.adapters {
            let path = adapter.path.to_string_lossy();
            active.push((find(&model, &mut loaded, &path)?, adapter.weight));
        }
        let mut session = self.model.run.session(&model, ActiveAdapters::new(active)?)?;
        let begin = |conversation: &mut Conversation| {
            conversation.clear();
            if let Some(system) = &self.system {
                conversation.push("system", system);
            }
        };
        begin(&mut conversation);
        eprintln!("{} - /help lists the commands", model.info().name);
        let mut lines = std::io::stdin().lock().lines();
        loop {
            eprint!("> ");
            let Some(line) = lines.next().transpose()? else { return Ok(()) };
            let (command, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
            match command {
                "" => {}
                "/quit" | "/exit" => return Ok(()),
                "/help" => eprintln!("{HELP}"),
                "/clear" => begin(&mut conversation),
                "/adapters" => loaded.keys().for_each(|name| eprintln!("{name}")),
                "/adapter" | "/keep" => {
                    let policy = if command == "/keep" { SwapPolicy::Keep } else { SwapPolicy::Recompute };
                    if let Err(error) = swap(&mut session, &mut loaded, rest.trim(), policy) {
                        eprintln!("error: {error}");
                    }
                }
                _ if command.starts_with('/') => eprintln!("{command} is not a command; /help lists them"),
                _ => {
                    conversation.push("user", line.trim());
                    // A reply that fails (a full context) takes its question back, so that the chat can go on.
                    if let Err(error) = self.reply(&mut session, &mut conversation, sampler) {
                        conversation.pop();
                        eprintln!("error: {error}");
                    }
                }
            }
        }
    }

    fn reply(&self, session: &mut Session, conversation: &mut Conversation, sampler: SamplerOptions) -> Outcome {
        let prompt = conversation.prompt(session.model().tokenizer()?)?;
        session.set_tokens(&prompt);
        let mut generation =
            session.generate(GenerateOptions { max_tokens: self.tokens, sampler, ..GenerateOptions::default() })?;
        let mut reply = String::new();
        while let Some(piece) = generation.next_piece()? {
            output::piece(piece)?;
            reply.push_str(piece);
        }
        output::line("")?;
        let stats = generation.stats();
        eprintln!(
            "[{} of {} prompt tokens cached, first after {:.0} ms, {:.1} tok/s]",
            stats.cached_tokens,
            stats.prompt_tokens,
            stats.ttft_ms,
            stats.decode_rate()
        );
        conversation.push("assistant", reply);
        Ok(())
    }
}

/// An empty conversation in the model's own format.
fn conversation(model: &Model) -> Outcome<Conversation> {
    Conversation::from_gguf(model.gguf()).map_err(|error| match error {
        SessionError::Template(TemplateError::Missing) => {
            format!("{error}: it cannot chat; `timbre run --raw` continues a text with it").into()
        }
        other => other.into(),
    })
}

/// What an adapter is called: the last part of its path, without `.safetensors`.
fn short_name(path: &str) -> String {
    let last = Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy());
    last.strip_suffix(".safetensors").unwrap_or(&last).to_owned()
}

/// The adapter known by this name, else loaded from this path.
fn find(model: &Model, loaded: &mut Loaded, name: &str) -> Outcome<Arc<BoundAdapter>> {
    if let Some(adapter) = loaded.get(name) {
        return Ok(adapter.clone());
    }
    let adapter = model.load_adapter(name).map_err(|e| match loaded.is_empty() {
        true => e.to_string(),
        false => format!("{e} (loaded so far: {})", loaded.keys().cloned().collect::<Vec<_>>().join(", ")),
    })?;
    loaded.insert(short_name(name), adapter.clone());
    Ok(adapter)
}

fn swap(session: &mut Session, loaded: &mut Loaded, name: &str, policy: SwapPolicy) -> Outcome {
    let adapters = match name {
        "" => return Err("which adapter? give a name, a path or none".into()),
        "none" => ActiveAdapters::none(),
        _ => ActiveAdapters::new(vec![(find(&session.model().clone(), loaded, name)?, 1.0)])?,
    };
    session.set_adapters(adapters, policy)?;
    eprintln!("[swapped in {:.1} µs]", session.swap_us());
    Ok(())
}
