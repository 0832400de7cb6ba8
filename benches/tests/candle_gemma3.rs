//! Gemma 3 against candle-transformers, the same file in both, candle's weights dequantised to f32.

use std::path::PathBuf;
use std::process::Command;

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::quantized_gemma3::ModelWeights;
use timbre::kernels::{KernelChoice, Tier};
use timbre::model::{Model, ModelOptions};
use timbre::session::{CancelHandle, Session, SessionOptions};
use timbre::tokenizer::EncodeOptions;

/// Largest difference of a logit on the reference kernels: f32 sums in another order through 18 layers, on logits that
/// reach 30.
const LOGIT_BUDGET: f32 = 2e-2;
/// The same on the fast kernels, whose activations are rounded to 8 bits in blocks of 32.
const FAST_LOGIT_BUDGET: f32 = 2.5;

/// Candle reads this once per thread: under it, quantised weights are dequantised and multiplied in f32.
const EXACT: &str = "CANDLE_DEQUANTIZE_ALL";

const PROMPTS: [&str; 4] = [
    "The capital of France is",
    "Once upon a time there was a small fox who",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "<start_of_turn>user\nWhat is the sea?<end_of_turn>\n<start_of_turn>model\n",
];

fn model_path() -> PathBuf {
    let folder = std::env::var_os("TIMBRE_TEST_MODELS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models")), PathBuf::from);
    let path = folder.join("gemma-3-270m-Q4_K_M.gguf");
    assert!(path.is_file(), "{} is missing: `just models` fetches the test models", path.display());
    path
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a }).unwrap()
}

/// Runs the comparison in a process of its own, where the variable is set before candle looks.
#[test]
fn logits_agree_with_candle() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "compare_exactly", "--nocapture"])
        .env(EXACT, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "the comparison ran");
}

#[test]
fn compare_exactly() {
    if std::env::var_os(EXACT).is_none() {
        // Only meaningful in the process that `logits_agree_with_candle` starts.
        return;
    }
    let device = Device::Cpu;
    let mut file = std::fs::File::open(model_path()).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let session = |tier| {
        let options = ModelOptions { kernels: tier, threads: Some(2) };
        let model = Model::open(model_path(), &options).unwrap();
        Session::new(model, &SessionOptions { context: Some(128), ..SessionOptions::default() }).unwrap()
    };
    let mut exact = session(KernelChoice::Only(Tier::Reference));
    let mut fast = session(KernelChoice::Auto);
    let mut candle = ModelWeights::from_gguf(content, &mut file, &device).unwrap();
    let tokenizer = exact.model().tokenizer().unwrap().clone();
    for prompt in PROMPTS {
        let ids = tokenizer.encode(prompt, EncodeOptions { parse_special: true, add_bos: true }).unwrap();
        let input = Tensor::new(&ids[..], &device).unwrap().unsqueeze(0).unwrap();
        let theirs = candle.forward(&input, 0).unwrap().to_dtype(DType::F32).unwrap();
        let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
        for (session, budget) in [(&mut exact, LOGIT_BUDGET), (&mut fast, FAST_LOGIT_BUDGET)] {
            session.set_tokens(&ids);
            let ours = session.logits(&CancelHandle::default()).unwrap();
            let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            println!("{prompt:?}: largest difference {worst:.2e} (budget {budget})");
            assert_eq!(ours.len(), theirs.len());
            assert_eq!(argmax(ours), argmax(&theirs), "{prompt:?}");
            assert!(worst <= budget, "{prompt:?}: {worst}");
        }
    }
}
