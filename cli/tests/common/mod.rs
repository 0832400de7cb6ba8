//! Running the built `timbre` and looking at what it left: exit code, standard output, standard error, files.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A finished process.
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

/// Runs `timbre` with `args`, on nothing but them: no model is taken from the environment.
pub fn timbre(args: &[&str]) -> Ran {
    run(command(args), "")
}

/// [`timbre`] with `input` on standard input.
pub fn timbre_with_input(args: &[&str], input: &str) -> Ran {
    run(command(args), input)
}

/// The command that [`timbre`] runs, to be changed further.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_timbre"));
    command.args(args).env_remove("TIMBRE_MODEL");
    command
}

/// Runs a command to its end.
pub fn run(mut command: Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A process that ends without reading its input breaks the pipe, which is no concern of the test's.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().expect("no signal"), out: text(output.stdout), err: text(output.stderr) }
}

impl Ran {
    /// Itself, having succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.err);
        self
    }

    /// The JSON objects on standard output, which holds nothing else.
    #[track_caller]
    pub fn json_lines(self) -> Vec<Value> {
        let ran = self.ok();
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        let values: Vec<Value> = ran.out.lines().map(parse).collect();
        assert!(values.iter().all(Value::is_object), "{}", ran.out);
        values
    }

    /// The one JSON object on standard output.
    #[track_caller]
    pub fn json(self) -> Value {
        let mut values = self.json_lines();
        assert_eq!(values.len(), 1, "{values:?}");
        values.remove(0)
    }

    /// It failed with `code`, said `words` on standard error, and nothing on standard output.
    #[track_caller]
    pub fn fails(self, code: i32, words: &str) -> Self {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        assert!(self.err.starts_with("error: ") && self.err.contains(words), "{:?} lacks {words:?}", self.err);
        self
    }
}

/// The keys of an object, in its order.
pub fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// An array of numbers.
#[track_caller]
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The position of the largest.
pub fn argmax(values: &[f64]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap()
}

/// The largest absolute difference.
#[track_caller]
pub fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Token ids as `--tokens` takes them.
pub fn comma_separated(ids: &Value) -> String {
    ids.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(",")
}

/// SmolLM2-135M-Instruct, Q4_1.
pub fn smollm2() -> String {
    model("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// Gemma 3 270M, Q4_K_M, which has no chat template.
pub fn gemma3() -> String {
    model("gemma-3-270m-Q4_K_M.gguf")
}

/// The folder of the model files: `TIMBRE_TEST_MODELS`, by default `target/models` of the repository.
pub fn models() -> PathBuf {
    std::env::var_os("TIMBRE_TEST_MODELS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models")), PathBuf::from)
}

fn model(file: &str) -> String {
    let path = models().join(file);
    assert!(path.is_file(), "{} is missing: `just models` fetches the test models", path.display());
    text(&path)
}

/// A PEFT directory that travels with the repository: `devil` or `kjv`, 60 FourierFT modules each.
pub fn adapter(name: &str) -> String {
    text(&Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/adapters")).join(name))
}

/// The path of a fixture.
pub fn fixture(name: &str) -> String {
    text(&Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../core/tests/fixtures")).join(name))
}

/// A fixture that is JSON.
pub fn fixture_json(name: &str) -> Value {
    let path = fixture(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
