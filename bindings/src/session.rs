//! [`NativeSession`]: a conversation.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use timbre::model::{ActiveAdapters, Model};
use timbre::session::{
    Conversation, Message, Session, SessionOptions as CoreOptions, SessionState, SwapPolicy as CorePolicy,
};
use timbre::tokenizer::EncodeOptions;

use crate::adapter::WeightedAdapter;
use crate::convert;
use crate::error::{Outcome, TimbreError};
use crate::failure::available;
use crate::generation::{GenerationOptions, GenerationResult, NativeGeneration, Run, busy};
use crate::guard::guarded;
use crate::model::{KvPrecision, NativeModel, check_context};
use crate::worker;

/// How a session is set up.
#[derive(Debug, Clone, PartialEq, Default, uniffi::Record)]
pub struct SessionOptions {
    /// Tokens it holds; `None` for the model's context or 4096, whichever is less.
    #[uniffi(default = None)]
    pub context: Option<u32>,
    /// How keys and values are stored.
    pub kv: KvPrecision,
    /// What the model is told before the conversation.
    #[uniffi(default = None)]
    pub instructions: Option<String>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// What a swap does with what previous adapters have read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, uniffi::Enum)]
pub enum SwapPolicy {
    /// Read the history anew under the new adapters at the next reply.
    #[default]
    Recompute,
    /// Keep it as the old adapters read it: the next token comes at once.
    Keep,
}

/// How much memory a session gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum TrimLevel {
    /// Buffers, which are made again in a millisecond.
    Buffers,
    /// Buffers, keys and values: the next reply reads the history anew. What lies on a GPU stays there.
    All,
}

/// A conversation with a model. One reply runs at a time; what else needs the model meanwhile is
/// [`TimbreError::Busy`], except that a cancelled reply is waited for.
#[derive(uniffi::Object)]
pub struct NativeSession {
    shared: Arc<Shared>,
}

struct Shared {
    model: Arc<Model>,
    state: Mutex<State>,
    idle: Condvar,
}

struct State {
    /// Away while a reply runs.
    session: Option<Session>,
    /// `None` for a model without a chat template.
    conversation: Option<Conversation>,
    /// The reply that has the session.
    running: Option<Arc<Run>>,
    instructions: Option<String>,
}

/// A reply's place in the conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Reply,
    /// Text that is continued, beside the conversation.
    Text,
}

#[uniffi::export]
impl NativeSession {
    /// Plans every buffer.
    ///
    /// # Errors
    /// [`TimbreError::OutOfMemory`] where keys and values of a full context do not fit into what the system could give now;
    /// [`TimbreError::InvalidArgument`].
    #[uniffi::constructor]
    pub fn new(model: &NativeModel, options: SessionOptions) -> Outcome<Arc<Self>> {
        guarded(|| {
            let session = open(model, &options)?;
            let model = Arc::clone(&model.model);
            let conversation = match Conversation::from_gguf(model.gguf()) {
                Ok(conversation) => Some(conversation),
                Err(timbre::session::SessionError::Template(timbre::session::TemplateError::Missing)) => None,
                Err(error) => return Err(error.into()),
            };
            let instructions = options.instructions.filter(|text| !text.is_empty());
            let mut state = State { session: Some(session), conversation, running: None, instructions };
            if state.conversation.is_none() && state.instructions.is_some() {
                return Err(no_template());
            }
            state.begin();
            Ok(Arc::new(Self { shared: Arc::new(Shared { model, state: Mutex::new(state), idle: Condvar::new() }) }))
        })
    }

    /// Swaps adapters: they add up, each times its weight; none is the base model. The first use of an adapter on a model binds
    /// it, after that a swap costs microseconds. Returns those.
    ///
    /// # Errors
    /// [`TimbreError::IncompatibleAdapter`], and the session keeps what it had; [`TimbreError::InvalidArgument`],
    /// [`TimbreError::Busy`].
    pub fn set_adapters(&self, adapters: Vec<WeightedAdapter>, policy: SwapPolicy) -> Outcome<f64> {
        guarded(|| {
            let bind = |part: &WeightedAdapter| Ok((part.adapter.on(&self.shared.model)?, part.weight));
            let active = ActiveAdapters::new(adapters.iter().map(bind).collect::<Outcome<Vec<_>>>()?)?;
            self.shared.with(|session| {
                let policy = match policy {
                    SwapPolicy::Recompute => CorePolicy::Recompute,
                    SwapPolicy::Keep => CorePolicy::Keep,
                };
                session.set_adapters(active, policy)?;
                Ok(session.swap_us())
            })
        })
    }

    /// Begins the reply to a message of the user. Both join the history at the reply's end; a reply that fails, or is cancelled
    /// before its first character, leaves the history as it was.
    ///
    /// # Errors
    /// [`TimbreError::Busy`]; [`TimbreError::UnsupportedModel`] for a model without a chat template;
    /// [`TimbreError::InvalidArgument`].
    pub fn respond(&self, prompt: String, options: GenerationOptions) -> Outcome<Arc<NativeGeneration>> {
        guarded(|| {
            let mut state = self.shared.idle()?;
            let mut conversation = state.conversation.clone().ok_or_else(no_template)?;
            conversation.push("user", prompt);
            let tokens = conversation.prompt(self.shared.model.tokenizer()?)?;
            state.conversation = Some(conversation);
            self.shared.start(state, tokens, options, Turn::Reply)
        })
    }

    /// Continues a text as it is, without a template and beside the conversation, which is read anew afterwards.
    ///
    /// # Errors
    /// [`TimbreError::Busy`], [`TimbreError::InvalidArgument`].
    pub fn complete(&self, text: String, options: GenerationOptions) -> Outcome<Arc<NativeGeneration>> {
        guarded(|| {
            let state = self.shared.idle()?;
            let tokenizer = self.shared.model.tokenizer()?;
            let tokens = tokenizer.encode(&text, EncodeOptions { parse_special: false, add_bos: tokenizer.adds_bos() });
            self.shared.start(state, tokens.map_err(TimbreError::from)?, options, Turn::Text)
        })
    }

    /// The messages so far, instructions included. While a reply runs, the message it replies to is the last.
    pub fn history(&self) -> Vec<ChatMessage> {
        let state = self.shared.lock();
        state.conversation.iter().flat_map(Conversation::messages).map(convert::message).collect()
    }

    /// Makes these the messages so far, instructions included or not, as the caller likes.
    ///
    /// # Errors
    /// [`TimbreError::Busy`], [`TimbreError::UnsupportedModel`].
    pub fn set_history(&self, messages: Vec<ChatMessage>) -> Outcome<()> {
        guarded(|| {
            let mut state = self.shared.idle()?;
            state.set_messages(messages.iter().map(convert::core_message))
        })
    }

    /// Forgets everything but the instructions and the adapters.
    ///
    /// # Errors
    /// [`TimbreError::Busy`].
    pub fn clear(&self) -> Outcome<()> {
        guarded(|| {
            let mut state = self.shared.idle()?;
            state.begin();
            state.session.iter_mut().for_each(Session::clear);
            Ok(())
        })
    }

    /// Tokens the next prompt has before anything is said: the history in the model's own format.
    ///
    /// # Errors
    /// [`TimbreError::UnsupportedModel`], [`TimbreError::InvalidArgument`].
    pub fn history_tokens(&self) -> Outcome<u32> {
        guarded(|| {
            let conversation = self.shared.lock().conversation.clone().ok_or_else(no_template)?;
            if conversation.messages().is_empty() {
                return Ok(0);
            }
            Ok(convert::small(conversation.prompt(self.shared.model.tokenizer()?)?.len()))
        })
    }

    /// Tokens it can hold.
    ///
    /// # Errors
    /// [`TimbreError::Busy`].
    pub fn capacity(&self) -> Outcome<u32> {
        guarded(|| self.shared.with(|session| Ok(convert::small(session.capacity()))))
    }

    /// The conversation in bytes: messages and tokens, a version, the base model's fingerprint and a hash. Keys and values are
    /// computed anew from them.
    ///
    /// # Errors
    /// [`TimbreError::Busy`].
    pub fn save_bytes(&self) -> Outcome<Vec<u8>> {
        guarded(|| Ok(self.shared.state()?.to_bytes()?))
    }

    /// Makes `path` a file with those bytes; after a crash it is what it was, or the new one, whole.
    ///
    /// # Errors
    /// [`TimbreError::Busy`], [`TimbreError::Io`].
    pub fn save(&self, path: String) -> Outcome<()> {
        guarded(|| self.shared.state()?.save(Path::new(&path)).map_err(|error| TimbreError::from(error).in_file(&path)))
    }

    /// Makes the conversation the one in these bytes. Adapters stay as they are.
    ///
    /// # Errors
    /// [`TimbreError::CorruptFile`]; [`TimbreError::InvalidArgument`] for one of another base model; [`TimbreError::Busy`]. The
    /// session keeps what it had.
    pub fn restore_bytes(&self, bytes: Vec<u8>) -> Outcome<()> {
        guarded(|| {
            let (base, vocab) = self.shared.identity();
            self.shared.restore(SessionState::from_bytes(&bytes, &base, vocab)?)
        })
    }

    /// Makes the conversation the one in a file.
    ///
    /// # Errors
    /// As [`Self::restore_bytes`]; [`TimbreError::Io`].
    pub fn restore(&self, path: String) -> Outcome<()> {
        guarded(|| {
            let (base, vocab) = self.shared.identity();
            let state = SessionState::load(Path::new(&path), &base, vocab);
            self.shared.restore(state.map_err(|error| TimbreError::from(error).in_file(&path))?)
        })
    }

    /// Gives memory back until the next reply. `false` where a reply is running, which needs it.
    ///
    /// # Errors
    /// [`TimbreError::Internal`].
    pub fn trim_memory(&self, level: TrimLevel) -> Outcome<bool> {
        guarded(|| {
            let mut state = self.shared.lock();
            let Some(session) = &mut state.session else { return Ok(false) };
            session.trim(level == TrimLevel::All);
            Ok(true)
        })
    }

    /// Ends the reply that is running, if any, within a token.
    pub fn cancel(&self) {
        if let Some(run) = &self.shared.lock().running {
            run.cancel();
        }
    }
}

impl Drop for NativeSession {
    fn drop(&mut self) {
        // Its memory goes when its thread is done with it.
        self.cancel();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state with the session in it: at once, or after the end of a reply that was cancelled.
    fn idle(&self) -> Outcome<MutexGuard<'_, State>> {
        let mut state = self.lock();
        loop {
            match &state.running {
                Some(run) if run.is_cancelled() => {
                    state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Some(_) => return Err(busy()),
                None if state.session.is_some() => return Ok(state),
                None => {
                    return Err(TimbreError::internal("a reply failed and took the session with it: make a new one"));
                }
            }
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Session) -> Outcome<T>) -> Outcome<T> {
        let mut state = self.idle()?;
        state.session.as_mut().map_or_else(|| Err(busy()), work)
    }

    fn identity(&self) -> (String, usize) {
        (self.model.gguf().fingerprint().to_owned(), self.model.decoder().vocab)
    }

    fn state(&self) -> Outcome<SessionState> {
        let state = self.idle()?;
        Ok(SessionState {
            base: self.identity().0,
            messages: state.conversation.iter().flat_map(|c| c.messages().iter().cloned()).collect(),
            tokens: state.session.iter().flat_map(|session| session.tokens().iter().copied()).collect(),
        })
    }

    fn restore(&self, saved: SessionState) -> Outcome<()> {
        let mut state = self.idle()?;
        if state.conversation.is_some() || !saved.messages.is_empty() {
            state.set_messages(saved.messages.into_iter())?;
        }
        if let Some(session) = &mut state.session {
            session.set_tokens(&saved.tokens);
        }
        Ok(())
    }

    /// Hands the session to a thread of its own until the reply has ended.
    fn start(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        prompt: Vec<u32>,
        options: GenerationOptions,
        turn: Turn,
    ) -> Outcome<Arc<NativeGeneration>> {
        let mut session = state.session.take().ok_or_else(busy)?;
        let run = Run::new();
        state.running = Some(Arc::clone(&run));
        drop(state);
        let (shared, theirs) = (Arc::clone(self), Arc::clone(&run));
        let work = move || {
            let result = theirs.generate(&mut session, &prompt, &options);
            Ok((session, result))
        };
        let (end, ended) = (Arc::clone(&run), Arc::clone(self));
        worker::spawn("timbre-reply", work, move |done| {
            // A panic took the session with it: `done` is its error.
            let (session, result) = done.map_or_else(|error| (None, Err(error)), |(s, result)| (Some(s), result));
            ended.end(session, turn, &result);
            // After the session is back, so that who sees the end can go on with it.
            end.finish(result);
        })?;
        drop(shared);
        Ok(NativeGeneration::new(run))
    }

    /// Takes the session back and completes the history.
    fn end(&self, session: Option<Session>, turn: Turn, result: &Outcome<GenerationResult>) {
        let mut state = self.lock();
        state.session = session;
        state.running = None;
        if let (Turn::Reply, Some(conversation)) = (turn, &mut state.conversation) {
            match result {
                // A reply that ended by itself counts even where it is empty: the model had nothing to say.
                Ok(reply) if reply.finish != crate::Finish::Cancelled || !reply.text.is_empty() => {
                    conversation.push("assistant", reply.text.clone());
                }
                _ => {
                    conversation.pop();
                }
            }
        }
        self.idle.notify_all();
    }
}

impl State {
    /// The conversation at its beginning.
    fn begin(&mut self) {
        if let Some(conversation) = &mut self.conversation {
            conversation.clear();
            if let Some(instructions) = &self.instructions {
                conversation.push("system", instructions.clone());
            }
        }
    }

    fn set_messages(&mut self, messages: impl Iterator<Item = Message>) -> Outcome<()> {
        let conversation = self.conversation.as_mut().ok_or_else(no_template)?;
        conversation.clear();
        messages.for_each(|message| conversation.push(&message.role, message.content));
        Ok(())
    }
}

/// A session, if it fits into memory.
fn open(native: &NativeModel, options: &SessionOptions) -> Outcome<Session> {
    let (model, backend) = (&native.model, native.backend);
    let context = check_context(options.context)?;
    let estimate = model.estimate(context, options.kv.core())?;
    let (needed, available) = (estimate.anon_bytes() as u64, available());
    // The system overcommits: it would give the address space and kill the process when it is used.
    if available > 0 && needed > available {
        return Err(TimbreError::OutOfMemory { needed, available });
    }
    let core = CoreOptions { context, kv: Some(options.kv.core()), backend, ..CoreOptions::default() };
    let session = Session::new(Arc::clone(model), &core);
    session.map_err(|error| match error.into() {
        TimbreError::OutOfMemory { available, .. } => TimbreError::OutOfMemory { needed, available },
        other => other,
    })
}

fn no_template() -> TimbreError {
    TimbreError::unsupported("the model has no chat template: it continues texts but holds no conversation")
}
