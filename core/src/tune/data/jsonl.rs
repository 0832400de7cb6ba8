//! Lines of JSON as examples.

use serde_json::{Map, Value};

use crate::session::{Message, TemplateError};
use crate::tokenizer::TokenizerError;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// `{"prompt","completion"}`
    Completion {
        /// What is given.
        prompt: String,
        /// What is learnt.
        completion: String,
    },
    /// `{"messages":[{"role","content"},…]}`; what the role `assistant` says is learnt.
    Messages(Vec<Message>),
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// Not JSON.
    #[error("not JSON: {message} at column {column}")]
    Json {
        /// The parser's words.
        message: String,
        /// Where.
        column: usize,
    },
    /// JSON, but neither kind of example.
    #[error("{found}, expected {expected}")]
    Record {
        /// What there is.
        found: String,
        /// What is possible.
        expected: &'static str,
    },
    /// A chat in which the assistant says nothing.
    #[error("no message of the assistant to learn from")]
    NoReply,
    /// The template does not write a conversation as the beginning of its continuation, so that what the assistant says
    /// cannot be told from the rest.
    #[error("the chat template writes message {message} otherwise than as a continuation of those before it")]
    NotAContinuation {
        /// The assistant's message, from 1.
        message: usize,
    },
    /// The model's template does not take the chat, or there is none.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The text could not be turned into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

const EXPECTED: &str = r#"{"prompt":TEXT,"completion":TEXT} or {"messages":[{"role":TEXT,"content":TEXT},…]}"#;

impl Record {
    /// Reads a line. Other keys are ignored.
    ///
    /// # Errors
    /// [`LineError::Json`], [`LineError::Record`].
    pub fn parse(line: &str) -> Result<Self, LineError> {
        let value: Value = serde_json::from_str(line).map_err(|error| LineError::Json {
            message: error.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
            column: error.column(),
        })?;
        let Value::Object(mut object) = value else {
            return Err(refused(format!("{} instead of an object", kind(&value))));
        };
        let has = |key| object.contains_key(key);
        match (has("messages"), has("prompt") || has("completion")) {
            (true, true) => Err(refused("both a prompt or completion and messages".to_owned())),
            (true, false) => match object.remove("messages") {
                Some(Value::Array(list)) if !list.is_empty() => {
                    list.into_iter().enumerate().map(message).collect::<Result<_, _>>().map(Self::Messages)
                }
                other => Err(refused(format!("messages is {}", kind(&other.unwrap_or_default())))),
            },
            (false, true) => Ok(Self::Completion {
                prompt: text(&mut object, "prompt", String::new())?,
                completion: text(&mut object, "completion", String::new())?,
            }),
            (false, false) => Err(refused("an object without a prompt and completion or messages".to_owned())),
        }
    }
}

fn message((index, value): (usize, Value)) -> Result<Message, LineError> {
    let at = format!("messages[{index}].");
    let Value::Object(mut object) = value else {
        return Err(refused(format!("messages[{index}] is {}", kind(&value))));
    };
    Ok(Message { role: text(&mut object, "role", at.clone())?, content: text(&mut object, "content", at)? })
}

fn text(object: &mut Map<String, Value>, key: &str, at: String) -> Result<String, LineError> {
    match object.remove(key) {
        Some(Value::String(text)) => Ok(text),
        None => Err(refused(format!("no {at}{key}"))),
        Some(other) => Err(refused(format!("{at}{key} is {}", kind(&other)))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(list) if list.is_empty() => "an empty list",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn refused(found: String) -> LineError {
    LineError::Record { found, expected: EXPECTED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_line() {
        let completion = Record::Completion { prompt: "a".into(), completion: "b".into() };
        assert_eq!(Record::parse(r#"{"prompt":"a","completion":"b","id":7}"#).unwrap(), completion);
        let chat = Record::Messages(vec![Message::user("hi"), Message::assistant("yo")]);
        let line = r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yo","name":"x"}]}"#;
        assert_eq!(Record::parse(line).unwrap(), chat);
    }

    #[test]
    fn what_is_no_example_says_what_it_is() {
        for (line, words) in [
            ("{\"prompt\":\"a\"", "not JSON: EOF while parsing an object at column 13"),
            ("nonsense", "not JSON"),
            ("[1]", "a list instead of an object"),
            ("3", "a number instead of an object"),
            ("{}", "without a prompt and completion or messages"),
            (r#"{"prompt":"a"}"#, "no completion"),
            (r#"{"completion":"a"}"#, "no prompt"),
            (r#"{"prompt":1,"completion":"a"}"#, "prompt is a number"),
            (r#"{"prompt":"a","completion":null}"#, "completion is null"),
            (r#"{"messages":[]}"#, "messages is an empty list"),
            (r#"{"messages":"hi"}"#, "messages is a text"),
            (r#"{"messages":[{"role":"user"}]}"#, "no messages[0].content"),
            (r#"{"messages":[{"role":"user","content":[]}]}"#, "messages[0].content is an empty list"),
            (r#"{"messages":["hi"]}"#, "messages[0] is a text"),
            (r#"{"messages":[],"prompt":"a"}"#, "both"),
            (&"[".repeat(100_000), "recursion limit"),
        ] {
            let error = Record::parse(line).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
