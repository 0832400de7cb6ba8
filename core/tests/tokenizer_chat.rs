//! Chat templates of real model files, tokenized.

mod common;

use common::{GEMMA3, SMOLLM2, fixture_json, model};
use timbre::session::{ChatTemplate, Message, TemplateError};
use timbre::tokenizer::{EncodeOptions, Tokenizer};

#[test]
fn rendered_prompts_have_the_reference_ids() {
    let gguf = model(SMOLLM2);
    let template = ChatTemplate::from_gguf(&gguf).unwrap();
    let tokenizer = Tokenizer::from_gguf(gguf).unwrap();
    let fixture = fixture_json("smollm2.json");
    let mut chats = 0;
    for case in fixture["prompts"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        let text = match prompt.strip_prefix("<raw> ") {
            Some(raw) => raw.to_owned(),
            None => {
                chats += 1;
                template.render(&[Message::user(prompt)], true).unwrap()
            }
        };
        let ids = tokenizer.encode(&text, EncodeOptions { parse_special: true, add_bos: false }).unwrap();
        let expected: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(ids, expected, "{prompt}");
    }
    assert!(chats >= 3);
}

#[test]
fn a_system_message_replaces_the_default_one() {
    let template = ChatTemplate::from_gguf(&model(SMOLLM2)).unwrap();
    let chat = [Message::system("Be brief."), Message::user("Hi"), Message::assistant("Hello")];
    assert_eq!(
        template.render(&chat, false).unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    );
}

#[test]
fn a_file_without_a_template_says_so() {
    assert!(matches!(ChatTemplate::from_gguf(&model(GEMMA3)).unwrap_err(), TemplateError::Missing));
}
