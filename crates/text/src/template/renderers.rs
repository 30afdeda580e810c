//! Threads that render templates, kept from one render to the next.
//!
//! Starting one costs more than most renders. And none is ever detached while it ends: in glibc before 2.37
//! `pthread_detach` reads a thread that may be gone (its bug 19951), which ends the process.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Beyond this a stack is not kept: what a render has touched of it stays in memory.
const KEPT_STACK: usize = 256 << 20;

pub(super) type Answer = Result<String, minijinja::Error>;
type Work = Box<dyn FnOnce() -> Vec<Answer> + Send>;

/// Why there is no answer.
pub(super) enum Failure {
    NoThread(std::io::Error),
    Late,
    Panicked,
}

/// Threads that wait for work, at most as many as processors, and those that somebody stopped waiting for.
#[derive(Debug, Default)]
pub(super) struct Renderers {
    idle: Mutex<Vec<Renderer>>,
    late: Mutex<Vec<Renderer>>,
}

impl Renderers {
    /// Runs `work` in a thread with at least `stack` bytes, and waits for at most `deadline`.
    pub(super) fn run(
        &self,
        stack: usize,
        deadline: Duration,
        work: impl FnOnce() -> Vec<Answer> + Send + 'static,
    ) -> Result<Vec<Answer>, Failure> {
        let ended: Vec<_> = lock(&self.late).extract_if(.., |late| late.has_ended()).collect();
        drop(ended);
        let renderer = match self.take(stack) {
            Some(renderer) => renderer,
            // What will be kept serves larger work too if it is rounded up.
            None if stack <= KEPT_STACK => {
                Renderer::start(stack.next_power_of_two()).map_err(Failure::NoThread)?
            }
            None => Renderer::start(stack).map_err(Failure::NoThread)?,
        };
        match renderer.run(deadline, Box::new(work)) {
            Ok(answers) => {
                self.keep(renderer);
                Ok(answers)
            }
            Err(RecvTimeoutError::Timeout) => {
                lock(&self.late).push(renderer);
                Err(Failure::Late)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Failure::Panicked),
        }
    }

    fn take(&self, stack: usize) -> Option<Renderer> {
        let mut idle = lock(&self.idle);
        let at = idle.iter().position(|renderer| renderer.stack >= stack)?;
        Some(idle.swap_remove(at))
    }

    /// The largest are worth most: they can do what the others can.
    fn keep(&self, renderer: Renderer) {
        if renderer.stack > KEPT_STACK {
            return;
        }
        let mut idle = lock(&self.idle);
        idle.push(renderer);
        let least = (0..idle.len()).min_by_key(|at| idle[*at].stack);
        let superfluous = match least {
            Some(least) if idle.len() > processors() => Some(idle.swap_remove(least)),
            _ => None,
        };
        // Waits for its thread: not with the lock.
        drop(idle);
        drop(superfluous);
    }
}

impl Drop for Renderers {
    fn drop(&mut self) {
        let late = std::mem::take(&mut *lock(&self.late));
        // To wait for what may never end would be as bad as to detach it.
        late.into_iter().filter(|late| !late.has_ended()).for_each(std::mem::forget);
    }
}

fn processors() -> usize {
    static COUNT: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *COUNT.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

fn lock(renderers: &Mutex<Vec<Renderer>>) -> MutexGuard<'_, Vec<Renderer>> {
    renderers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Renderer {
    stack: usize,
    /// None while it is being dropped.
    work: Option<Sender<Work>>,
    answers: Receiver<Vec<Answer>>,
    thread: Option<JoinHandle<()>>,
}

impl Renderer {
    fn start(stack: usize) -> std::io::Result<Self> {
        let (work, inbox) = channel::<Work>();
        let (outbox, answers) = channel();
        let serve = move || {
            for work in inbox {
                // Somebody who no longer waits is no reason to end here: the inbox does.
                drop(outbox.send(work()));
            }
        };
        let thread = thread::Builder::new().name("chat-template".into()).stack_size(stack).spawn(serve)?;
        Ok(Self { stack, work: Some(work), answers, thread: Some(thread) })
    }

    fn run(&self, deadline: Duration, work: Work) -> Result<Vec<Answer>, RecvTimeoutError> {
        let sender = self.work.as_ref().ok_or(RecvTimeoutError::Disconnected)?;
        sender.send(work).map_err(|_| RecvTimeoutError::Disconnected)?;
        self.answers.recv_timeout(deadline)
    }

    /// Whether work that was late is done.
    fn has_ended(&self) -> bool {
        self.answers.try_recv().is_ok() || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Renderer {
    fn drop(&mut self) {
        // The thread ends when its inbox closes.
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic was told as the answer that did not come.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn id(renderers: &Renderers, stack: usize) -> String {
        let work = || vec![Ok(format!("{:?}", thread::current().id()))];
        renderers.run(stack, PATIENCE, work).ok().unwrap().remove(0).unwrap()
    }

    #[test]
    fn threads_are_used_again_where_their_stack_is_enough() {
        let renderers = Renderers::default();
        let first = id(&renderers, 1 << 20);
        assert_eq!(id(&renderers, 1 << 20), first);
        assert_eq!(id(&renderers, 1000), first);
        let larger = id(&renderers, (1 << 20) + 1);
        assert_ne!(larger, first);
        assert_eq!(id(&renderers, (2 << 20) - 5), larger);
        let unkept = id(&renderers, KEPT_STACK + 1);
        assert_ne!(id(&renderers, KEPT_STACK + 1), unkept);
        assert!(lock(&renderers.idle).iter().all(|kept| kept.stack <= KEPT_STACK));
    }

    #[test]
    fn many_at_once_keep_no_more_than_there_are_processors() {
        let renderers = Arc::new(Renderers::default());
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let renderers = Arc::clone(&renderers);
                thread::spawn(move || {
                    for _ in 0..200 {
                        id(&renderers, 1 << 16);
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        assert!((1..=processors()).contains(&lock(&renderers.idle).len()));
    }

    #[test]
    fn what_is_late_or_panics_is_left_and_cleared_away() {
        let renderers = Renderers::default();
        let (go, wait) = channel::<()>();
        let late = renderers.run(1 << 16, Duration::from_millis(10), move || {
            let _ = wait.recv();
            vec![Ok("late".to_owned())]
        });
        assert!(matches!(late, Err(Failure::Late)));
        assert!(matches!(renderers.run(1 << 16, PATIENCE, || panic!("on purpose")), Err(Failure::Panicked)));
        assert_eq!((lock(&renderers.late).len(), lock(&renderers.idle).len()), (1, 0));
        id(&renderers, 1 << 16);
        assert_eq!(lock(&renderers.late).len(), 1, "it has not ended");
        drop(go);
        let begun = std::time::Instant::now();
        while !lock(&renderers.late).is_empty() && begun.elapsed() < PATIENCE {
            id(&renderers, 1 << 16);
        }
        assert!(lock(&renderers.late).is_empty());
    }
}
