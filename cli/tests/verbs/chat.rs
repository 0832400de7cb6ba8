//! `timbre chat`, driven through standard input.

use crate::common::{adapter, gemma3, smollm2, timbre, timbre_with_input};

const QUESTION: &str = "Define: love";

/// What `run` answers, which a fresh conversation must answer too.
fn reply(adapters: &[&str]) -> String {
    let model = smollm2();
    timbre(&[&["run", "--model", &model, "--prompt", QUESTION, "-n", "6", "-t", "1"], adapters].concat()).ok().out
}

fn chat(args: &[&str], script: &[&str]) -> crate::common::Ran {
    let model = smollm2();
    let args = [&["chat", "--model", &model, "-n", "6", "-t", "1", "--ctx", "256"], args].concat();
    timbre_with_input(&args, &script.join("\n")).ok()
}

#[test]
fn adapters_swap_inside_a_conversation() {
    let (devil, kjv) = (adapter("devil"), adapter("kjv"));
    let load = format!("/adapter {devil}");
    let keep = format!("/keep {kjv}");
    let script = [
        QUESTION,
        "/clear",
        &load,
        QUESTION,
        &keep,
        "/adapters",
        QUESTION,
        "/clear",
        "/adapter devil",
        QUESTION,
        "",
        "/clear",
        "/adapter none",
        QUESTION,
        "/quit",
        QUESTION,
    ];
    let ran = chat(&[], &script);
    let (base, tuned) = (reply(&[]), reply(&["--adapter", &devil]));
    assert_ne!(base, tuned);
    let rest = ran.out.strip_prefix(&format!("{base}{tuned}")).unwrap_or_else(|| panic!("{}", ran.out));
    assert!(rest.ends_with(&format!("{tuned}{base}")), "{rest:?}");
    assert!(rest.len() > tuned.len() + base.len(), "one reply in a history that another adapter wrote");

    assert!(ran.err.contains("> devil\nkjv\n"), "{}", ran.err);
    assert_eq!(ran.err.matches("[swapped in ").count(), 4);
    let cached = |line: &str| line.trim_start_matches("> ").strip_prefix('[')?.split_once(" of ")?.0.parse().ok();
    let cached: Vec<usize> = ran.err.lines().filter_map(cached).collect();
    assert_eq!(cached.len(), 5, "{}", ran.err);
    assert_eq!([cached[0], cached[1], cached[3], cached[4]], [0; 4], "a swap reads the history anew");
    assert!(cached[2] > 30, "/keep does not: {cached:?}");
}

#[test]
fn wrong_commands_are_told_and_change_nothing() {
    let script = ["/bogus", "/adapter", "/adapter nowhere", "/keep", "/help", QUESTION];
    let ran = chat(&[], &script);
    assert_eq!(ran.out, reply(&[]), "the end of the input ends the chat");
    for words in [
        "/bogus is not a command; /help lists them",
        "error: which adapter?",
        "error: nowhere: ",
        "/keep NAME|PATH",
        "/clear ",
    ] {
        assert!(ran.err.contains(words), "{:?} lacks {words:?}", ran.err);
    }
}

#[test]
fn it_begins_with_the_adapters_and_the_system_message_of_the_command_line() {
    let devil = adapter("devil");
    assert_eq!(chat(&["--adapter", &devil], &[QUESTION]).out, reply(&["--adapter", &devil]));
    let prompt = |args: &[&str]| {
        let err = chat(args, &[QUESTION, "/quit"]).err;
        err.split_once(" of ").unwrap().1.split_once(' ').unwrap().0.parse::<usize>().unwrap()
    };
    assert_ne!(prompt(&["--system", "Answer in one word."]), prompt(&[]));
}

#[test]
fn a_question_that_does_not_fit_is_taken_back() {
    let long = "word ".repeat(300);
    let ran = chat(&[], &[&long, QUESTION]);
    assert_eq!(ran.out, reply(&[]));
    assert!(ran.err.contains("error: "), "{}", ran.err);
}

#[test]
fn a_model_without_a_chat_template_is_refused() {
    timbre(&["chat", "--model", &gemma3()]).fails(1, "no chat template").fails(1, "timbre run --raw");
}
