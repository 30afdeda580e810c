//! Answers in work: submitting them to the engine, hearing of them, and ending them when nobody listens.

use std::future::Future as _;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Instant;

use fathom_engine::{Constraint, FinishReason, Request, SamplingParams, Sink, Ticket, Update};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Sleep;

use crate::admission::{Account, Caller, Demand, Usage};
use crate::api_error::ApiResult;
use crate::app::App;
use crate::config::Isolation;
use crate::metrics::Metrics;
use crate::traces;

/// What is to be answered.
pub(crate) struct Job {
    pub(crate) route: &'static str,
    pub(crate) caller: Caller,
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) params: SamplingParams,
    /// Answers to each prompt.
    pub(crate) n: usize,
    pub(crate) constraint: Option<Constraint>,
    /// When the request came.
    pub(crate) arrived: Instant,
}

/// What a run reports.
pub(crate) enum Heard {
    /// Something happened to the answer with this index.
    Update(usize, Update),
    /// Nothing began within the time that requests may wait.
    NotStarted,
    /// The engine ended without a word about the answers.
    Lost,
}

/// The answers to one request. Dropping it cancels what still runs.
pub(crate) struct Run {
    updates: UnboundedReceiver<(usize, Update)>,
    tickets: Vec<Ticket>,
    left: usize,
    /// Until the first answer begins.
    deadline: Option<Pin<Box<Sleep>>>,
    metrics: Arc<Metrics>,
}

impl Run {
    /// Admits the job and submits its answers. Answer `p·n + i` is the i-th to prompt p; with a seed, the i-th gets
    /// seed + i.
    pub(crate) fn start(app: &App, job: Job) -> ApiResult<Self> {
        let choices = job.prompts.len() * job.n;
        let demand = Demand {
            caller: &job.caller,
            route: job.route,
            prompt_tokens: job.prompts.iter().map(Vec::len).sum(),
            max_tokens: job.params.max_tokens,
            choices,
        };
        let account = app.admission.admit(&demand)?;
        let (sender, updates) = unbounded_channel();
        let deadline = tokio::time::sleep(app.limits.queue_timeout);
        let mut run = Self {
            updates,
            tickets: Vec::with_capacity(choices),
            left: choices,
            deadline: Some(Box::pin(deadline)),
            metrics: app.metrics.clone(),
        };
        let namespace = namespace(app.config.isolation, &job.caller);
        for (p, prompt) in job.prompts.iter().enumerate() {
            for i in 0..job.n {
                let mut params = job.params.clone();
                params.seed = params.seed.map(|seed| seed.wrapping_add(i as u64));
                let watch = Watch {
                    index: p * job.n + i,
                    sender: sender.clone(),
                    account: account.clone(),
                    metrics: app.metrics.clone(),
                    arrived: job.arrived,
                    last_token: None,
                    counts_prompt: i == 0,
                    span: traces::answer_span(&demand, app.model_id()),
                    usage: Usage::default(),
                    settled: false,
                };
                // If a later answer is refused, dropping `run` cancels the earlier ones.
                run.tickets.push(app.engine.submit(Request {
                    prompt: prompt.clone(),
                    params,
                    tenant: job.caller.key_id.clone(),
                    namespace: namespace.clone(),
                    constraint: job.constraint.clone(),
                    sink: watch.into_sink(),
                })?);
            }
        }
        Ok(run)
    }

    /// The next thing that happens; `None` after the last answer has ended.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Heard>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        match self.updates.poll_recv(context) {
            Poll::Ready(Some((index, update))) => {
                self.deadline = None;
                if matches!(update, Update::Finished(_)) {
                    self.left -= 1;
                }
                return Poll::Ready(Some(Heard::Update(index, update)));
            }
            Poll::Ready(None) => {
                self.left = 0;
                return Poll::Ready(Some(Heard::Lost));
            }
            Poll::Pending => {}
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            self.left = 0;
            self.deadline = None;
            self.tickets.iter().for_each(Ticket::cancel);
            return Poll::Ready(Some(Heard::NotStarted));
        }
        Poll::Pending
    }

    /// [`Self::poll_next`], to wait for.
    pub(crate) async fn next(&mut self) -> Option<Heard> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.left > 0 {
            self.metrics.cancelled.fetch_add(self.left as u64, Relaxed);
            self.tickets.iter().for_each(Ticket::cancel);
        }
    }
}

/// Requests in the same namespace share cached prefixes.
fn namespace(isolation: Isolation, caller: &Caller) -> String {
    match isolation {
        Isolation::None => String::new(),
        Isolation::Key => caller.key_id.clone(),
        // A key's id has no slash, so nobody can name another's namespace.
        Isolation::User => format!("{}/{}", caller.key_id, caller.user_id.as_deref().unwrap_or_default()),
    }
}

/// Sits in the engine: passes updates on, measures, and settles the usage exactly once.
struct Watch {
    index: usize,
    sender: UnboundedSender<(usize, Update)>,
    account: Arc<dyn Account>,
    metrics: Arc<Metrics>,
    arrived: Instant,
    last_token: Option<Instant>,
    counts_prompt: bool,
    span: tracing::Span,
    usage: Usage,
    settled: bool,
}

impl Watch {
    fn into_sink(mut self) -> Sink {
        Box::new(move |update| {
            self.see(&update);
            // Whoever has left has cancelled; the last update then settles.
            let _ = self.sender.send((self.index, update));
            ControlFlow::Continue(())
        })
    }

    fn see(&mut self, update: &Update) {
        match update {
            Update::Started { cached_tokens } => self.usage.cached_tokens = *cached_tokens,
            Update::Token { .. } => {
                let now = Instant::now();
                match self.last_token.replace(now) {
                    None => self.metrics.first_token.observe(now - self.arrived),
                    Some(last) => self.metrics.between_tokens.observe(now - last),
                }
                self.usage.completion_tokens += 1;
            }
            Update::Finished(finished) => {
                // It ends here, before the client can know: a server that stops next still sends it.
                traces::record_answer(&std::mem::replace(&mut self.span, tracing::Span::none()), finished);
                if self.counts_prompt {
                    self.usage.prompt_tokens = finished.prompt_tokens;
                }
                self.usage.cached_tokens = finished.cached_tokens;
                self.usage.completion_tokens = finished.completion_tokens;
                self.usage.complete =
                    matches!(finished.finish_reason, FinishReason::Stop | FinishReason::Length);
                self.settle();
            }
        }
    }

    fn settle(&mut self) {
        if !std::mem::replace(&mut self.settled, true) {
            self.usage.total = self.arrived.elapsed();
            self.metrics.total.observe(self.usage.total);
            self.account.settle(&self.usage);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.last_token.is_some() || self.usage.prompt_tokens > 0 {
            self.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_do_not_meet() {
        let caller =
            |key: &str, user: Option<&str>| Caller { key_id: key.into(), user_id: user.map(Into::into) };
        let of = |isolation, key, user| namespace(isolation, &caller(key, user));
        assert_ne!(of(Isolation::User, "a", Some("x")), of(Isolation::User, "a", Some("y")));
        assert_ne!(of(Isolation::User, "a", Some("x")), of(Isolation::User, "b", Some("x")));
        assert_ne!(of(Isolation::User, "a", None), of(Isolation::User, "b", Some("a/")));
        assert_eq!(of(Isolation::Key, "a", Some("x")), of(Isolation::Key, "a", None));
        assert_ne!(of(Isolation::Key, "a", None), of(Isolation::Key, "b", None));
        assert_eq!(of(Isolation::None, "a", Some("x")), of(Isolation::None, "b", None));
    }
}
