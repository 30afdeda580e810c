//! What goes into the engine and what comes out of it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::constraint::Constraint;
use crate::completion::TokenLogprobs;
use crate::finish::FinishReason;
use crate::params::SamplingParams;

/// Takes the updates of a request on the engine's thread, and so must not block. [`ControlFlow::Break`] ends the
/// request: nothing more is computed for it, and nothing more is told.
pub type Sink = Box<dyn FnMut(Update) -> ControlFlow<()> + Send>;

/// A prompt that is to be answered.
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// How to choose and when to stop.
    pub params: SamplingParams,
    /// Turns are shared fairly between tenants.
    pub tenant: String,
    /// Cached prefixes are shared within a namespace and never beyond.
    pub namespace: String,
    /// What the answer has to look like.
    pub constraint: Option<Constraint>,
    /// Told of everything.
    pub sink: Sink,
}

/// Something happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The prompt begins to run.
    Started {
        /// Tokens of it whose latents were cached.
        cached_tokens: usize,
    },
    /// A token was chosen.
    Token {
        /// The token.
        token: TokenLogprobs,
        /// Text that is now safe to show, perhaps none.
        text: String,
    },
    /// The last update.
    Finished(Finished),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Text that had been held back.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What went wrong, for [`FinishReason::Failed`].
    pub error: Option<String>,
    /// Index of the stop string that ended it, if one did.
    pub stop: Option<usize>,
    /// With this seed the answer can be repeated.
    pub seed: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were cached.
    pub cached_tokens: usize,
    /// Tokens of the answer, the one that ended it included.
    pub completion_tokens: usize,
    /// From submission to the first step.
    pub queued: Duration,
    /// From there to the first token.
    pub prefill: Duration,
    /// From there to the end.
    pub decode: Duration,
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub(super) cancelled: Arc<AtomicBool>,
}

impl Ticket {
    /// Ends the request within one step, as [`FinishReason::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}
