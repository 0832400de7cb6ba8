//! Data of fine-tuning: PEFT's tokens and masks on the real vocabularies, and files that are not what they should be.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{GEMMA3, SMOLLM2, fixture_json, fixture_path, model};
use timbre::session::{ChatTemplate, Message, TemplateError};
use timbre::tokenizer::{EncodeOptions, SpecialText, Tokenizer};
use timbre::tune::TuneError;
use timbre::tune::data::{Dataset, Encoder, Examples, LineError, Record, Sequence};

fn encoder(file: &str) -> (Encoder, Arc<Tokenizer>) {
    let gguf = model(file);
    let template = match ChatTemplate::from_gguf(&gguf) {
        Err(TemplateError::Missing) => None,
        other => Some(other.unwrap()),
    };
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf).unwrap());
    (Encoder::from_parts(tokenizer.clone(), template, 8192), tokenizer)
}

/// The learnt stretches of a sequence as text.
fn learnt(tokenizer: &Tokenizer, sequence: &Sequence) -> Vec<String> {
    let mut stretches: Vec<Vec<u32>> = Vec::new();
    let mut inside = false;
    for (token, target) in sequence.tokens.iter().zip(&sequence.targets) {
        match (target, inside) {
            (true, false) => stretches.push(vec![*token]),
            (true, true) => stretches.last_mut().unwrap().push(*token),
            _ => {}
        }
        inside = *target;
    }
    stretches.iter().map(|ids| tokenizer.decode(ids, SpecialText::Keep).unwrap()).collect()
}

#[test]
fn completions_have_pefts_tokens_and_mask() {
    let (encoder, _) = encoder(SMOLLM2);
    let examples = Examples::load(&encoder, &fixture_path("train/first20.jsonl"), None).unwrap();
    let fixture = fixture_json("train/first20.json");
    let expected: Vec<_> =
        fixture["steps"].as_array().unwrap().iter().flat_map(|s| s["sequences"].as_array().unwrap()).collect();
    assert_eq!((expected.len(), examples.sequences().len()), (40, 40));
    for (found, expected) in examples.sequences().iter().zip(expected) {
        let ids: Vec<u32> = expected["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let from = expected["loss_from"].as_u64().unwrap() as usize;
        assert_eq!(found.tokens, ids);
        let targets: Vec<bool> = (0..ids.len()).map(|i| i >= from).collect();
        assert_eq!(found.targets, targets);
    }
    assert_eq!((examples.report().truncated, examples.report().dropped), (0, 0));
}

#[test]
fn a_prompt_and_completion_is_a_chat_of_two() {
    let (encoder, _) = encoder(SMOLLM2);
    let chat = [Message::user("Define: a"), Message::assistant("A, n.")];
    assert_eq!(encoder.completion("Define: a", "A, n.").unwrap(), encoder.messages(&chat).unwrap());
}

#[test]
fn every_turn_of_the_assistant_is_learnt_and_nothing_else() {
    let (encoder, tokenizer) = encoder(SMOLLM2);
    let chat = [
        Message::system("Be brief."),
        Message::user("Hi"),
        Message::assistant("Hello"),
        Message::user("Name?"),
        Message::assistant("Smol."),
        Message::user("Bye"),
    ];
    let sequence = encoder.messages(&chat).unwrap();
    assert_eq!(learnt(&tokenizer, &sequence), ["Hello<|im_end|>\n", "Smol.<|im_end|>\n"]);
    let whole = tokenizer.decode(&sequence.tokens, SpecialText::Keep).unwrap();
    assert!(whole.starts_with("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi"), "{whole}");
    assert!(whole.ends_with("Smol.<|im_end|>\n"), "what follows the last turn is left out: {whole}");
    // What is given is what the model would be prompted with.
    let from = sequence.targets.iter().position(|t| *t).unwrap();
    let prompt = ChatTemplate::from_gguf(&model(SMOLLM2)).unwrap().render(&chat[..2], true).unwrap();
    let prompt = tokenizer.encode(&prompt, EncodeOptions { parse_special: true, add_bos: false }).unwrap();
    assert_eq!(sequence.tokens[..from], prompt);
}

#[test]
fn without_a_template_texts_are_joined_plainly() {
    let (encoder, tokenizer) = encoder(GEMMA3);
    let sequence = encoder.completion("The sea is", " blue.").unwrap();
    assert_eq!(sequence.tokens.first().copied(), tokenizer.bos());
    assert_eq!(sequence.tokens.last().copied(), tokenizer.eos());
    let whole = tokenizer.decode(&sequence.tokens, SpecialText::Skip).unwrap();
    assert_eq!(whole, "The sea is blue.");
    assert_eq!(learnt(&tokenizer, &sequence), [" blue.<eos>"]);
    let error = encoder.messages(&[Message::user("a"), Message::assistant("b")]).unwrap_err();
    assert!(matches!(error, LineError::Template(TemplateError::Missing)), "{error}");
}

#[test]
fn a_text_is_cut_into_windows_that_lose_nothing() {
    let text = "In the beginning God created the heaven and the earth. ".repeat(12);
    for file in [SMOLLM2, GEMMA3] {
        let (encoder, tokenizer) = encoder(file);
        let ids = tokenizer.encode(&text, EncodeOptions { parse_special: true, add_bos: false }).unwrap();
        let bos = usize::from(tokenizer.adds_bos());
        let windows = encoder.text(&text, 32).unwrap();
        assert!(windows.iter().rev().skip(1).all(|w| w.tokens.len() == 32));
        let joined: Vec<u32> = windows.iter().flat_map(|w| &w.tokens[bos..]).copied().collect();
        assert!(ids.starts_with(&joined) && ids.len() - joined.len() < Encoder::MIN_WINDOW);
        for window in &windows {
            assert!(bos == 0 || Some(window.tokens[0]) == tokenizer.bos());
            assert!(!window.targets[0] && window.targets[1..].iter().all(|t| *t));
        }
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn folder() -> Folder {
    Folder(tempfile::tempdir().unwrap())
}

#[test]
fn long_examples_are_cut_and_counted() {
    let (encoder, _) = encoder(SMOLLM2);
    let folder = folder();
    let line = |words: usize| format!("{{\"prompt\":\"Define: a\",\"completion\":\"{}\"}}\n", "word ".repeat(words));
    let path = folder.file("a.jsonl", [line(4), String::new(), "\n".into(), line(200), line(4)].concat());
    let examples = Examples::load(&encoder, &path, Some(64)).unwrap();
    let report = examples.report();
    assert_eq!((report.examples, report.truncated, report.dropped), (3, 1, 0));
    assert_eq!((examples.longest(), examples.sequences()[1].tokens.len()), (64, 64));
    // A limit inside the prompts leaves nothing to learn.
    let error = Examples::load(&encoder, &path, Some(16)).unwrap_err();
    assert!(matches!(error, TuneError::NoTargets { examples: 3, truncated: 3, max_length: 16, .. }), "{error}");
    let mixed = folder.file(
        "b.jsonl",
        [line(4), format!("{{\"prompt\":\"{}\",\"completion\":\"b\"}}", "word ".repeat(300))].concat(),
    );
    let report = Examples::load(&encoder, &mixed, Some(128)).unwrap().report();
    assert_eq!((report.examples, report.truncated, report.dropped), (1, 1, 1));
}

#[test]
fn bad_lines_are_named() {
    let (encoder, _) = encoder(SMOLLM2);
    let folder = folder();
    let good = r#"{"prompt":"a","completion":"b"}"#;
    for (lines, line, words) in [
        (format!("{good}\n\n{good}\nnot json\n{good}"), 4, "not JSON"),
        (format!("{{\"prompt\":\"a\"}}\n{good}"), 1, "no completion"),
        (
            format!("{good}\n{{\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}]}}"),
            2,
            "no message of the assistant",
        ),
        (format!("{good}\r\n{{\"messages\":7}}\r\n"), 2, "messages is a number"),
    ] {
        let path = folder.file("bad.jsonl", &lines);
        let error = Examples::load(&encoder, &path, None).unwrap_err();
        assert!(matches!(&error, TuneError::Line { line: found, .. } if *found == line), "{error}");
        let shown = error.to_string();
        assert!(shown.contains(&format!("bad.jsonl, line {line}: ")) && shown.contains(words), "{shown}");
    }
}

#[test]
fn hopeless_files_are_refused_by_what_is_wrong() {
    let (encoder, _) = encoder(SMOLLM2);
    let folder = folder();
    let load = |path: &Path| Examples::load(&encoder, path, None);
    for name in ["empty.jsonl", "empty.txt"] {
        for bytes in ["", "\n \n\n", "\u{feff}\n"] {
            assert!(matches!(load(&folder.file(name, bytes)).unwrap_err(), TuneError::Empty { .. }), "{name}");
        }
    }
    let error = load(&folder.file("short.txt", "Hi there")).unwrap_err();
    assert!(matches!(error, TuneError::TooShort { tokens: 2, needed: 8, .. }), "{error}");
    let error = load(&folder.file("latin.txt", b"one\ntwo\ncaf\xe9 and more text than a few tokens\n")).unwrap_err();
    assert!(matches!(error, TuneError::NotUtf8 { line: 3, .. }), "{error}");
    let error = load(&folder.file("latin.jsonl", b"{\"prompt\":\"\xff\"}")).unwrap_err();
    assert!(matches!(error, TuneError::NotUtf8 { line: 1, .. }), "{error}");
    let error = load(&folder.0.path().join("nowhere.txt")).unwrap_err();
    assert!(matches!(error, TuneError::Io { .. }) && error.to_string().contains("nowhere.txt"), "{error}");
    assert!(matches!(load(folder.0.path()).unwrap_err(), TuneError::Io { .. }), "a folder");
    for length in [0, 7] {
        let path = folder.file("good.txt", "some text that is long enough to learn from");
        assert!(matches!(Examples::load(&encoder, &path, Some(length)).unwrap_err(), TuneError::Option { .. }));
    }
}

#[test]
fn a_mark_of_the_encoding_is_not_text() {
    let (encoder, _) = encoder(SMOLLM2);
    let folder = folder();
    let text = "In the beginning God created the heaven and the earth.";
    let plain = Examples::load(&encoder, &folder.file("a.txt", text), None).unwrap();
    let marked = Examples::load(&encoder, &folder.file("b.txt", format!("\u{feff}{text}")), None).unwrap();
    assert_eq!(plain, marked);
}

#[test]
fn a_template_that_rewrites_the_past_is_refused() {
    // Only the last reply is written in full: what was learnt of an earlier one would not be what the model sees.
    let source = "{% for m in messages %}[{{ m.role }}]{{ m.content if loop.last else '…' }}{% endfor %}\
                  {% if add_generation_prompt %}[assistant]{% endif %}";
    let tokenizer = encoder(SMOLLM2).1;
    let encoder = Encoder::from_parts(tokenizer, Some(ChatTemplate::new(source, "", "").unwrap()), 64);
    let chat = [Message::user("a"), Message::assistant("b"), Message::user("c"), Message::assistant("d")];
    let error = encoder.messages(&chat).unwrap_err();
    assert!(matches!(error, LineError::NotAContinuation { .. }), "{error}");
}

#[test]
fn a_dataset_knows_itself() {
    let (encoder, _) = encoder(SMOLLM2);
    let load = || Examples::load(&encoder, &fixture_path("train/first20.jsonl"), None).unwrap();
    let split = |seed| Dataset::split(load(), 0.1, seed).unwrap();
    let data = split(0);
    assert_eq!((data.train().sequences().len(), data.heldout().unwrap().sequences().len()), (36, 4));
    assert_eq!(data.fingerprint(), split(0).fingerprint());
    assert_ne!(data.fingerprint(), split(1).fingerprint());
    assert_ne!(data.fingerprint(), Dataset::new(load(), None).fingerprint());
    assert!(Dataset::split(load(), 1.0, 0).is_err() && Dataset::split(load(), f64::NAN, 0).is_err());
    // A share that takes all of them leaves none.
    let few = Examples::new(load().sequences()[..6].to_vec());
    assert!(matches!(Dataset::split(few, 0.99, 0).unwrap_err(), TuneError::NothingLeft { .. }));
}

#[test]
fn what_is_in_memory_is_learnt_as_what_is_in_a_file() {
    let (encoder, _) = encoder(SMOLLM2);
    let path = fixture_path("train/first20.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let records: Vec<Record> = text.lines().map(|line| Record::parse(line).unwrap()).collect();
    let given = Examples::of_records(&encoder, &records, None).unwrap();
    assert_eq!(given, Examples::load(&encoder, &path, None).unwrap());

    // A short text is an example of its own, a long one has windows.
    let long = "The tide is high and the wind is fair. ".repeat(40);
    let texts = Examples::of_texts(&encoder, &["Ahoy!", " ", &long], Some(64)).unwrap();
    let lengths: Vec<usize> = texts.sequences().iter().map(|sequence| sequence.tokens.len()).collect();
    assert_eq!(lengths[0], encoder.count("Ahoy!").unwrap());
    assert!(
        lengths.len() > 4 && lengths[1..].iter().all(|length| (Encoder::MIN_WINDOW..=64).contains(length)),
        "{lengths:?}"
    );
    assert_eq!(texts.sequences()[1..], encoder.text(&long, 64).unwrap());
    assert!(texts.sequences().iter().all(|s| !s.targets[0] && s.targets[1..].iter().all(|target| *target)));

    let nothing: [&str; 2] = ["", "\n"];
    let error = Examples::of_texts(&encoder, &nothing, None).unwrap_err();
    assert!(matches!(error, TuneError::NothingGiven { examples: 2, max_length: 128 }), "{error}");
    let silent = [records[0].clone(), Record::Messages(vec![Message::user("Hi")])];
    let error = Examples::of_records(&encoder, &silent, None).unwrap_err();
    assert!(matches!(error, TuneError::Example { number: 2, source: LineError::NoReply }), "{error}");
    let error = Examples::of_records(&encoder, &records, Some(1)).unwrap_err();
    assert!(matches!(error, TuneError::Option { name: "maximum length", .. }), "{error}");
}
