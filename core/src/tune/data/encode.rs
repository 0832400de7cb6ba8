//! [`Encoder`]: examples as tokens, with a mask over what is learnt.

use std::sync::Arc;

use crate::model::Model;
use crate::session::{ChatTemplate, Message, TemplateError};
use crate::tokenizer::{EncodeOptions, Tokenizer};
use crate::tune::TuneError;

use super::{LineError, Record, Sequence};

/// Turns examples into [`Sequence`]s the way the model will meet them: a chat by its template, the prompt as tokens of
/// its own and the reply as those that follow.
pub struct Encoder {
    tokenizer: Arc<Tokenizer>,
    /// `None` for a model file that has none: prompts and completions are joined plainly then.
    template: Option<ChatTemplate>,
    context: usize,
}

impl Encoder {
    /// For a model.
    ///
    /// # Errors
    /// [`TuneError::Model`] for a damaged vocabulary, [`TuneError::Template`] for a template that does not parse.
    pub fn new(model: &Model) -> Result<Self, TuneError> {
        let template = match ChatTemplate::from_gguf(model.gguf()) {
            Ok(template) => Some(template),
            Err(TemplateError::Missing) => None,
            Err(other) => return Err(other.into()),
        };
        Ok(Self::from_parts(model.tokenizer()?.clone(), template, model.decoder().context))
    }

    /// Of its parts; `context` is the longest sequence the model can run, in tokens.
    pub fn from_parts(tokenizer: Arc<Tokenizer>, template: Option<ChatTemplate>, context: usize) -> Self {
        Self { tokenizer, template, context }
    }

    /// The longest sequence the model can run.
    pub fn context(&self) -> usize {
        self.context
    }

    /// A line's example.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn record(&self, record: &Record) -> Result<Sequence, LineError> {
        match record {
            Record::Completion { prompt, completion } => self.completion(prompt, completion),
            Record::Messages(messages) => self.messages(messages),
        }
    }

    /// A prompt that is given and a completion that is learnt. With a chat template the prompt is a user's message and the
    /// completion the assistant's reply, closing tokens included; without one they are joined plainly, followed by the
    /// end-of-sequence token where there is one.
    ///
    /// # Errors
    /// [`LineError::Template`], [`LineError::NotAContinuation`], [`LineError::Tokenizer`].
    pub fn completion(&self, prompt: &str, completion: &str) -> Result<Sequence, LineError> {
        if self.template.is_some() {
            return self.messages(&[Message::user(prompt), Message::assistant(completion)]);
        }
        let mut sequence = Sequence::default();
        self.add(&mut sequence, prompt, false)?;
        self.add(&mut sequence, completion, true)?;
        if let Some(eos) = self.tokenizer.eos() {
            sequence.tokens.push(eos);
            sequence.targets.push(true);
        }
        Ok(self.begin(sequence))
    }

    /// A chat. What the assistant says is learnt, in each of its turns, up to and including the tokens that close the
    /// turn; the rest is given. What follows its last turn is left out.
    ///
    /// # Errors
    /// [`LineError::NoReply`], [`LineError::Template`], [`LineError::NotAContinuation`], [`LineError::Tokenizer`].
    pub fn messages(&self, messages: &[Message]) -> Result<Sequence, LineError> {
        let template = self.template.as_ref().ok_or(TemplateError::Missing)?;
        let mut sequence = Sequence::default();
        let mut written = String::new();
        for (index, _) in messages.iter().enumerate().filter(|(_, m)| m.role == "assistant") {
            let broken = || LineError::NotAContinuation { message: index + 1 };
            let before = template.render(&messages[..index], true)?;
            let after = template.render(&messages[..=index], false)?;
            let given = before.strip_prefix(&*written).ok_or_else(broken)?;
            let reply = after.strip_prefix(&*before).ok_or_else(broken)?;
            self.add(&mut sequence, given, false)?;
            self.add(&mut sequence, reply, true)?;
            written = after;
        }
        if written.is_empty() {
            return Err(LineError::NoReply);
        }
        Ok(self.begin(sequence))
    }

    /// A text in windows of `length` tokens, one after the other; every token but a window's first is learnt. Where the
    /// model expects a beginning-of-text token every window begins with one. A last window of fewer than
    /// [`Self::MIN_WINDOW`] tokens is left out.
    ///
    /// # Errors
    /// [`TuneError::Tokenizer`].
    pub fn text(&self, text: &str, length: usize) -> Result<Vec<Sequence>, TuneError> {
        let ids = self.tokenizer.encode(text, EncodeOptions { parse_special: true, add_bos: false })?;
        let room = length.saturating_sub(usize::from(self.first().is_some())).max(1);
        let windows = ids.chunks(room).filter(|ids| ids.len() >= Self::MIN_WINDOW.min(room));
        Ok(windows.map(|ids| self.window(ids)).collect())
    }

    /// A short text, a message say, as one window, however few tokens it has.
    ///
    /// # Errors
    /// [`TuneError::Tokenizer`].
    pub fn whole(&self, text: &str) -> Result<Sequence, TuneError> {
        Ok(self.window(&self.tokenizer.encode(text, EncodeOptions { parse_special: true, add_bos: false })?))
    }

    /// The token that every window begins with, where the model expects one.
    fn first(&self) -> Option<u32> {
        self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos())
    }

    fn window(&self, ids: &[u32]) -> Sequence {
        let tokens: Vec<u32> = self.first().into_iter().chain(ids.iter().copied()).collect();
        let targets = (0..tokens.len()).map(|i| i > 0).collect();
        Sequence { tokens, targets }
    }

    /// Tokens of a text, without any the model puts before it.
    ///
    /// # Errors
    /// [`TuneError::Tokenizer`].
    pub fn count(&self, text: &str) -> Result<usize, TuneError> {
        Ok(self.tokenizer.encode(text, EncodeOptions { parse_special: true, add_bos: false })?.len())
    }

    /// Tokens of the shortest window of a text.
    pub const MIN_WINDOW: usize = 8;

    fn add(&self, sequence: &mut Sequence, text: &str, learnt: bool) -> Result<(), LineError> {
        let ids = self.tokenizer.encode(text, EncodeOptions { parse_special: true, add_bos: false })?;
        sequence.targets.resize(sequence.targets.len() + ids.len(), learnt);
        sequence.tokens.extend(ids);
        Ok(())
    }

    /// The sequence with the beginning-of-text token the model expects and the template has not written; its first token
    /// is predicted from nothing.
    fn begin(&self, mut sequence: Sequence) -> Sequence {
        if let Some(bos) = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos())
            && sequence.tokens.first() != Some(&bos)
        {
            sequence.tokens.insert(0, bos);
            sequence.targets.insert(0, false);
        }
        if let Some(first) = sequence.targets.first_mut() {
            *first = false;
        }
        sequence
    }
}
