//! The `timbre` command: every verb is one call into the engine, plus arguments in and text or JSON out.

mod args;
mod fetch;
#[cfg(feature = "gpu")]
mod gpu;
mod npy;
mod output;
mod progress;
mod verbs;

use clap::{Parser, Subcommand};

/// On-device inference for personal models: one mapped quantised base, adapters swapped under it.
#[derive(Parser)]
#[command(
    name = "timbre",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Example:\n  timbre demo\n\nA model is a GGUF file; an adapter is a PEFT directory or a .safetensors file."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Demo(verbs::demo::Demo),
    Run(verbs::run::Run),
    Chat(verbs::chat::Chat),
    Tokenize(verbs::tokenize::Tokenize),
    Logits(verbs::logits::Logits),
    Perplexity(verbs::perplexity::Perplexity),
    #[command(subcommand)]
    Adapter(verbs::adapter::AdapterVerb),
    Delta(verbs::delta::Delta),
    Merge(verbs::merge::Merge),
    Tune(Box<verbs::tune::Tune>),
    Params(verbs::params::Params),
    Bench(verbs::bench::Bench),
    Devices(verbs::devices::Devices),
    Fetch(fetch::FetchArgs),
}

fn main() -> std::process::ExitCode {
    #[cfg(feature = "gpu")]
    gpu::remember();
    let result = match Cli::parse().verb {
        Verb::Demo(verb) => verb.run(),
        Verb::Run(verb) => verb.run(),
        Verb::Chat(verb) => verb.run(),
        Verb::Tokenize(verb) => verb.run(),
        Verb::Logits(verb) => verb.run(),
        Verb::Perplexity(verb) => verb.run(),
        Verb::Adapter(verb) => verb.run(),
        Verb::Delta(verb) => verb.run(),
        Verb::Merge(verb) => verb.run(),
        Verb::Tune(verb) => verb.run(),
        Verb::Params(verb) => verb.run(),
        Verb::Bench(verb) => verb.run(),
        Verb::Devices(verb) => verb.run(),
        Verb::Fetch(verb) => verb.run(),
    };
    output::exit_code(result)
}
