//! Many sequences at a time: `step()` = schedule → run → postprocess.
//!
//! ```text
//!  submit ─▶ inbox ─▶ Scheduler (fairness, blocks, plan) ─▶ Model::forward ─▶ sampler, text ─▶ sinks
//!                         ▲    prefixes shared by name │        │ masks beside it       │
//!                         └── disk: blocks of latents ◀┘        └─▶ MTP module: drafts ─┘
//! ```
//!
//! One thread runs steps ([`worker`]); everybody else holds an [`Engine`] and is told through sinks.

mod active;
mod blocks;
mod constraint;
mod disk;
mod fairness;
mod options;
mod pace;
mod request;
mod scheduler;
mod statistics;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fathom_kernels::attention::BLOCK_TOKENS;
use fathom_model::{Config, Model, Sequence};
use fathom_text::{StreamDecoder, Tokenizer};

pub use blocks::BlockName;
pub(crate) use constraint::Allowed;
pub use constraint::{Constraint, Grammar};
pub use options::{DiskCache, EngineOptions};
pub use request::{Finished, Request, Sink, Ticket, Update};
pub use statistics::Statistics;

use crate::assemble::TextAssembler;
use crate::error::{Error, Result};
use crate::finish::FinishRule;
use crate::sampler::Sampler;
use crate::session::check_prompt;
use active::{Active, Times};
use constraint::Grammars;
use worker::{Message, Worker};

/// Answers many requests at a time. A handle: clones share one engine, whose thread ends with
/// [`Engine::stop`] or with the last of them.
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    inbox: Sender<Message>,
    config: Config,
    context: usize,
    options: EngineOptions,
    tokenizer: Arc<Tokenizer>,
    eos_token_ids: Vec<u32>,
    grammars: std::sync::OnceLock<Grammars>,
    next_id: AtomicU64,
}

/// What the thread and its callers both see.
#[derive(Default)]
struct Shared {
    statistics: Mutex<Statistics>,
    /// Requests submitted and not begun.
    queued: AtomicUsize,
    draining: AtomicBool,
    /// The thread ended by a panic: nothing will be answered any more.
    crashed: AtomicBool,
    /// Requests submitted and not ended.
    under_way: Mutex<usize>,
    changed: Condvar,
}

impl Shared {
    fn under_way(&self) -> MutexGuard<'_, usize> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn statistics(&self) -> MutexGuard<'_, Statistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_more(&self) {
        *self.under_way() += 1;
    }

    fn one_fewer(&self) {
        let mut under_way = self.under_way();
        // After a crash nothing is under way, whatever comes late.
        *under_way = under_way.saturating_sub(1);
        drop(under_way);
        self.changed.notify_all();
    }
}

impl Engine {
    /// Starts an engine on a thread of its own.
    ///
    /// # Errors
    /// [`Error::EngineOption`] for a limit that is no use, the model's error if the cache is too large,
    /// [`Error::Io`] without a thread or a directory for the disk cache.
    pub fn start(
        model: Model,
        tokenizer: Arc<Tokenizer>,
        eos_token_ids: Vec<u32>,
        options: EngineOptions,
    ) -> Result<Self> {
        let context = check(&options, model.config())?;
        let shared = Arc::new(Shared::default());
        let (sender, inbox) = channel();
        let handle = Handle {
            shared: Arc::clone(&shared),
            inbox: sender.clone(),
            config: model.config().clone(),
            context,
            options: options.clone(),
            tokenizer,
            eos_token_ids,
            grammars: std::sync::OnceLock::new(),
            next_id: AtomicU64::new(0),
        };
        let last_words = LastWords(Arc::clone(&shared));
        let worker = Worker::new(model, &options, context, shared, inbox, sender)?;
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                let _last_words = last_words;
                worker.run();
            })
            .map_err(|source| Error::Io { what: "a thread for the engine".to_owned(), source })?;
        Ok(Self(Arc::new(handle)))
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Tokens of prompt and answer at most.
    pub fn context(&self) -> usize {
        self.0.context
    }

    /// Takes a request; its sink is told what becomes of it.
    ///
    /// # Errors
    /// A prompt or parameters that cannot be answered, [`Error::QueueFull`], [`Error::Draining`], [`Error::Crashed`].
    pub fn submit(&self, request: Request) -> Result<Ticket> {
        let handle = &*self.0;
        let Request { prompt, params, tenant, namespace, constraint, sink } = request;
        let sampler = Sampler::new(&params, handle.config.vocab_size, &prompt)?;
        check_prompt(&handle.config, Some(handle.context), &prompt)?;
        if self.has_crashed() {
            return Err(Error::Crashed);
        }
        if handle.shared.draining.load(Ordering::Relaxed) {
            return Err(Error::Draining);
        }
        let waiting = handle.shared.queued.fetch_add(1, Ordering::Relaxed);
        if waiting >= handle.options.waiting {
            handle.shared.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::QueueFull { waiting });
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let decoder = StreamDecoder::new(Arc::clone(&handle.tokenizer), true);
        let active = Active {
            id: handle.next_id.fetch_add(1, Ordering::Relaxed),
            sampler,
            rule: FinishRule::new(&params, &handle.eos_token_ids, handle.context - prompt.len()),
            assembler: TextAssembler::new(decoder, &params.stop),
            sink,
            constraint,
            allowed: None,
            sequence: Sequence::default(),
            mtp: None,
            cancelled: Arc::clone(&cancelled),
            times: Times { submitted: Instant::now(), started: None, first_token: None },
            prompt_tokens: prompt.len(),
            cached_tokens: 0,
            completion_tokens: 0,
        };
        handle.shared.one_more();
        let message = Message::Submit { active: Box::new(active), prompt, tenant, namespace };
        if handle.inbox.send(message).is_err() {
            handle.shared.queued.fetch_sub(1, Ordering::Relaxed);
            handle.shared.one_fewer();
            return Err(if self.has_crashed() { Error::Crashed } else { Error::Draining });
        }
        Ok(Ticket { cancelled })
    }

    /// Makes a grammar ready. May take milliseconds; the first time for a model, longer.
    ///
    /// # Errors
    /// [`Error::Grammar`].
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint> {
        let handle = &*self.0;
        if handle.grammars.get().is_none() {
            let made = Grammars::new(&handle.tokenizer, handle.config.vocab_size, &handle.eos_token_ids)?;
            // Another thread may have been faster; one is as good as the other.
            let _ = handle.grammars.set(made);
        }
        handle.grammars.get().expect("it was just made").constraint(grammar)
    }

    /// What was done so far.
    pub fn statistics(&self) -> Statistics {
        let mut statistics = *self.0.shared.statistics();
        statistics.waiting = self.0.shared.queued.load(Ordering::Relaxed);
        statistics
    }

    /// Whether a panic has ended the engine's thread. What it was about is on stderr; only a new process helps.
    pub fn has_crashed(&self) -> bool {
        self.0.shared.crashed.load(Ordering::Relaxed)
    }

    /// Takes no more requests from now on.
    pub fn drain(&self) {
        self.0.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Waits until every request has ended. `false` if that takes longer than `timeout`.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let under_way = self.0.shared.under_way();
        let waited = self.0.shared.changed.wait_timeout_while(under_way, timeout, |n| *n > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    /// Ends what still runs, as [`FinishReason::Unavailable`](crate::FinishReason::Unavailable), and the
    /// thread.
    pub fn stop(&self) {
        self.drain();
        // If the thread has ended already, there is nothing to stop.
        let _ = self.0.inbox.send(Message::Stop);
    }
}

/// Lies on the thread's stack: a panic is told to those who would wait for ever.
struct LastWords(Arc<Shared>);

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.crashed.store(true, Ordering::Relaxed);
            *self.0.under_way() = 0;
            self.0.changed.notify_all();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.inbox.send(Message::Stop);
    }
}

/// Checks the limits and returns the context.
fn check(options: &EngineOptions, config: &Config) -> Result<usize> {
    let at_least = |field, value, least: usize| match value >= least {
        true => Ok(()),
        false => Err(Error::EngineOption { field, value, allowed: format!("{least} or more") }),
    };
    at_least("cache_tokens", options.cache_tokens, BLOCK_TOKENS)?;
    at_least("sequences", options.sequences, 1)?;
    at_least("step_tokens", options.step_tokens, 2)?;
    at_least("waiting", options.waiting, 1)?;
    let model = config.max_position_embeddings;
    let room = options.cache_tokens / BLOCK_TOKENS * BLOCK_TOKENS;
    match options.context {
        Some(asked) if asked == 0 || asked > model => Err(Error::Context { asked, model }),
        Some(asked) if asked > room => Err(Error::EngineOption {
            field: "context",
            value: asked,
            allowed: format!("up to cache_tokens ({room}); make the cache larger"),
        }),
        asked => Ok(asked.unwrap_or(model.min(room))),
    }
}
