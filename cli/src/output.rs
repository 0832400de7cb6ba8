//! What goes to standard output, and how a failure ends the process.

use std::error::Error;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// The result of a verb. Every error that reaches here carries its own context.
pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Arguments that are wrong in a way the parser cannot see: they contradict one another, or a value is impossible.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The exit code of a command line that cannot be meant, as the argument parser has it.
const USAGE: u8 = 2;

/// Prints one JSON object on one line.
pub fn json(value: &impl serde::Serialize) -> Outcome {
    line(&serde_json::to_string(value)?)
}

/// Prints a line, flushed, so that a reader of a stream sees it at once.
pub fn line(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints part of a line, flushed.
pub fn piece(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// 0 for success (a reader that closed the pipe included), 1 for a failure, 2 for wrong [`Usage`]; told on standard error.
pub fn exit_code(result: Outcome) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        // Wrappers that show their source in their own text would repeat it.
        if !error.to_string().contains(&inner.to_string()) {
            eprintln!("  because: {inner}");
        }
        cause = inner.source();
    }
    if error.is::<Usage>() { USAGE.into() } else { ExitCode::FAILURE }
}

/// Bytes in the unit people read: 1 MB is 10⁶ bytes.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}
