//! [`Conversation`]: messages, rendered by the model's own template.

use std::sync::Arc;

use crate::gguf::Gguf;
use crate::tokenizer::{EncodeOptions, Tokenizer};

use super::{ChatTemplate, Message, SessionError};

/// The messages of a chat and the template that turns them into a prompt.
#[derive(Debug, Clone)]
pub struct Conversation {
    template: Arc<ChatTemplate>,
    messages: Vec<Message>,
}

impl Conversation {
    /// An empty conversation in the file's own format.
    ///
    /// # Errors
    /// [`SessionError::Template`] if the file has no usable template.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, SessionError> {
        Ok(Self { template: Arc::new(ChatTemplate::from_gguf(gguf)?), messages: Vec::new() })
    }

    /// The messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Adds a message; `role` is one the template knows, `user`, `assistant` or `system`.
    pub fn push(&mut self, role: &str, content: impl Into<String>) {
        self.messages.push(Message { role: role.to_owned(), content: content.into() });
    }

    /// Takes the last message back.
    pub fn pop(&mut self) -> Option<Message> {
        self.messages.pop()
    }

    /// Forgets every message.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// The prompt for the assistant's next reply, as tokens. A beginning-of-text token is added only where the template
    /// has not written it.
    ///
    /// # Errors
    /// [`SessionError::Template`], [`SessionError::Tokenizer`].
    pub fn prompt(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, SessionError> {
        let text = self.template.render(&self.messages, true)?;
        let mut ids = tokenizer.encode(&text, EncodeOptions { parse_special: true, add_bos: false })?;
        if let Some(bos) = tokenizer.bos()
            && tokenizer.adds_bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }
}
