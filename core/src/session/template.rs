//! Chat templates: from messages to the prompt a model was trained on.
//!
//! A template is a program out of the model file (`tokenizer.chat_template`, Jinja as the `transformers` library runs
//! it), so it runs without files, without a clock and with bounded work.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::gguf::{Gguf, GgufError};

const KEY: &str = "tokenizer.chat_template";
const NAME: &str = "chat";
/// Bytes of the longest template taken; the longest published ones have some 30 KB.
const MAX_SOURCE: usize = 256 << 10;
/// Work of one rendering. The engine charges one unit per instruction and per 64 bytes made, which bounds a rendering
/// to about a tenth of a second and 128 MB; a long chat needs some ten thousand.
const FUEL: u64 = 2_000_000;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// Instructions that stand before the conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the person says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    fn value(&self) -> Value {
        context! { role => self.role.as_str(), content => self.content.as_str() }
    }
}

/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A metadata key holds another type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file has no chat template: a base model, to be prompted with plain text.
    #[error("the model file has no chat template ({KEY})")]
    Missing,
    /// A template longer than any published one.
    #[error("the chat template is {bytes} bytes long, at most {max} are taken")]
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Not a Jinja template.
    #[error("the chat template does not parse: {message}")]
    Syntax {
        /// The engine's words.
        message: String,
    },
    /// The template called `raise_exception`: it does not take this conversation.
    #[error("the chat template refuses the conversation: {message}")]
    Refused {
        /// The template's words.
        message: String,
    },
    /// The template works longer, or makes more text, than any honest one.
    #[error("the chat template ran out of its {fuel} units of work")]
    OutOfFuel {
        /// The budget.
        fuel: u64,
    },
    /// The template failed in another way.
    #[error("the chat template failed: {message}")]
    Render {
        /// The engine's words.
        message: String,
    },
}

/// A parsed chat template. Immutable, `Send` and `Sync`.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template of a model file.
    ///
    /// # Errors
    /// [`TemplateError::Missing`] and what [`Self::new`] finds.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TemplateError> {
        let metadata = gguf.metadata();
        let source = metadata.opt_str(KEY)?.ok_or(TemplateError::Missing)?;
        let token = |key| -> Result<String, GgufError> {
            let (Some(id), Some(tokens)) = (metadata.opt_u32(key)?, metadata.opt_strings("tokenizer.ggml.tokens")?)
            else {
                return Ok(String::new());
            };
            Ok(String::from_utf8_lossy(tokens.get(id as usize).unwrap_or_default()).into_owned())
        };
        Self::new(source, &token("tokenizer.ggml.bos_token_id")?, &token("tokenizer.ggml.eos_token_id")?)
    }

    /// A template from its source and the texts that `bos_token` and `eos_token` stand for in it.
    ///
    /// # Errors
    /// [`TemplateError::TooLong`], [`TemplateError::Syntax`].
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE {
            return Err(TemplateError::TooLong { bytes: source.len(), max: MAX_SOURCE });
        }
        let syntax_error = |error: Error| TemplateError::Syntax { message: error.to_string() };
        let mut environment = Environment::new();
        // As `transformers` sets up Jinja for chat templates.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(syntax_error)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: String| strftime(&format));
        environment.add_template_owned(NAME, source.to_owned()).map_err(syntax_error)?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The prompt for a conversation; with `add_generation_prompt` it ends where the model's reply begins.
    ///
    /// Special tokens are written out: encode it with
    /// [`parse_special`](crate::tokenizer::EncodeOptions::parse_special). If the template writes the
    /// beginning-of-sequence token itself, encode without adding another.
    ///
    /// # Errors
    /// [`TemplateError::Refused`], [`TemplateError::OutOfFuel`], [`TemplateError::Render`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TemplateError> {
        let context = context! {
            messages => messages.iter().map(Message::value).collect::<Vec<_>>(),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        };
        self.environment.get_template(NAME).and_then(|template| template.render(context)).map_err(render_error)
    }
}

/// What `raise_exception` was called with, told apart from the engine's own errors by its type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn render_error(error: Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return TemplateError::Refused { message: message.clone() };
        }
        if current.downcast_ref().is_some_and(|error: &Error| error.kind() == ErrorKind::OutOfFuel) {
            return TemplateError::OutOfFuel { fuel: FUEL };
        }
        cause = current.source();
    }
    TemplateError::Render { message: error.to_string() }
}

/// The date the Llama 3 templates write where there is no clock: equal conversations give equal prompts.
fn strftime(format: &str) -> String {
    let mut out = String::with_capacity(format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        let code = if c == '%' { chars.next() } else { None };
        match code {
            None => out.push(c),
            Some('%') => out.push('%'),
            Some('Y') => out.push_str("2024"),
            Some('y') => out.push_str("24"),
            Some('m') => out.push_str("07"),
            Some('B') => out.push_str("July"),
            Some('b' | 'h') => out.push_str("Jul"),
            Some('d') => out.push_str("26"),
            Some('A') => out.push_str("Friday"),
            Some('a') => out.push_str("Fri"),
            Some('F') => out.push_str("2024-07-26"),
            Some('I') => out.push_str("12"),
            Some('p') => out.push_str("AM"),
            Some('H' | 'M' | 'S') => out.push_str("00"),
            Some(other) => out.extend(['%', other]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
        ChatTemplate::new(source, "<s>", "</s>").unwrap().render(messages, true)
    }

    /// Folds the system message into the first user message and insists on alternation, as Gemma's template does.
    const FOLDING: &str = "{{ bos_token }}
{%- set prefix = '' -%}
{%- set rest = messages -%}
{%- if messages[0].role == 'system' -%}
    {%- set prefix = messages[0].content.strip() + '\n\n' -%}
    {%- set rest = messages[1:] -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Roles must alternate') }}
    {%- endif -%}
    {{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}
    {{- (prefix if loop.first else '') + message.content | trim + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}";

    #[test]
    fn a_template_without_a_system_role_folds_it() {
        let chat = [Message::system(" Be kind. "), Message::user("Hi"), Message::assistant("Yo"), Message::user("?")];
        assert_eq!(
            render(FOLDING, &chat).unwrap(),
            "<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n\
             <start_of_turn>user\n?<end_of_turn>\n<start_of_turn>model\n"
        );
    }

    #[test]
    fn a_refusal_carries_the_templates_words() {
        let error = render(FOLDING, &[Message::user("a"), Message::user("b")]).unwrap_err();
        assert!(matches!(&error, TemplateError::Refused { message } if message == "Roles must alternate"), "{error}");
    }

    #[test]
    fn blocks_are_trimmed_and_python_methods_work() {
        let source = "{% for m in messages %}\n    {% if m.content.startswith('a') %}\n{{ m.content.upper() }}\n    {% endif %}\n{% endfor %}\n{{ {'k': 1}.items() | length }}";
        assert_eq!(render(source, &[Message::user("ab"), Message::user("c")]).unwrap(), "AB\n1");
    }

    #[test]
    fn the_clock_stands_still() {
        assert_eq!(render("{{ strftime_now('%d %b %Y %% %Q %') }}", &[]).unwrap(), "26 Jul 2024 % %Q %");
    }

    #[test]
    fn hostile_templates_end_in_an_error() {
        let endless = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
        let doubling =
            "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(90) %}{% set ns.s = ns.s + ns.s %}{% endfor %}";
        for source in [endless, doubling, "{{ 'x' * 4000000000 }}"] {
            let error = render(source, &[]).unwrap_err();
            assert!(matches!(error, TemplateError::OutOfFuel { .. }), "{source}: {error}");
        }
        for source in [
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ messages[0].content.__class__.__mro__ }}",
            "{{ nothing.at.all }}",
            "{{ 1 // 0 }}",
        ] {
            let error = render(source, &[Message::user("a")]).unwrap_err();
            assert!(matches!(error, TemplateError::Render { .. }), "{source}: {error}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        let nested = "(".repeat(100_000);
        for source in [
            "{% if %}",
            "{{ 'a",
            "{% include '/etc/hostname' %}",
            "{% import 'chat' as c %}",
            &format!("{{{{ {nested} }}}}"),
        ] {
            assert!(matches!(ChatTemplate::new(source, "", "").unwrap_err(), TemplateError::Syntax { .. }));
        }
        let long = " ".repeat(MAX_SOURCE + 1);
        assert!(matches!(ChatTemplate::new(&long, "", "").unwrap_err(), TemplateError::TooLong { .. }));
    }
}
