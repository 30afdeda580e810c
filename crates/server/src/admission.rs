//! The two seams around an answer: where a request is let in, and where its usage is final.
//!
//! Today [`PerKeyLimit`] counts what runs. Accounts, balances and prices go behind the same two calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The key's id; `anyone` where no key is needed.
    pub key_id: String,
    /// The user that the client named in the request (`user_id`, `user`, `metadata.user_id`).
    pub user_id: Option<String>,
}

/// What a request wants.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// The API's route.
    pub route: &'static str,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Longest answer in tokens, if it was given.
    pub max_tokens: Option<usize>,
    /// Number of answers.
    pub choices: usize,
}

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Too much at a time: 429.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// Nothing left to pay with: 402.
    NoBalance,
}

/// What one answer used. Final: told once for each answer, however it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of its prompt; 0 if it never began. For `n` answers to one prompt only the first reports any.
    pub prompt_tokens: usize,
    /// How many of them were cached.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub completion_tokens: usize,
    /// Whether the answer was delivered to its end.
    pub complete: bool,
    /// From the request's arrival to the end.
    pub total: Duration,
}

/// Lets requests in.
pub trait Admission: Send + Sync {
    /// Lets the request in, or says why not. The account is dropped when its last answer has ended.
    ///
    /// # Errors
    /// [`Refusal`].
    fn admit(&self, demand: &Demand<'_>) -> Result<Arc<dyn Account>, Refusal>;
}

/// What an admitted request is charged to.
pub trait Account: Send + Sync {
    /// The usage of one of its answers is final. Called on the engine's thread: must not block.
    fn settle(&self, usage: &Usage);
}

/// Bounds how many answers are in work for one key.
#[derive(Debug)]
pub struct PerKeyLimit {
    limit: usize,
    running: Arc<Mutex<HashMap<String, usize>>>,
}

impl PerKeyLimit {
    /// At most `limit` answers at a time for each key.
    pub fn new(limit: usize) -> Self {
        Self { limit, running: Arc::default() }
    }
}

impl Admission for PerKeyLimit {
    fn admit(&self, demand: &Demand<'_>) -> Result<Arc<dyn Account>, Refusal> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let count = running.entry(demand.caller.key_id.clone()).or_default();
        if *count + demand.choices > self.limit {
            return Err(Refusal::TooMany { limit: self.limit });
        }
        *count += demand.choices;
        let key_id = demand.caller.key_id.clone();
        Ok(Arc::new(Place { running: self.running.clone(), key_id, choices: demand.choices }))
    }
}

/// A place among the running; given back when dropped.
struct Place {
    running: Arc<Mutex<HashMap<String, usize>>>,
    key_id: String,
    choices: usize,
}

impl Account for Place {
    fn settle(&self, usage: &Usage) {
        tracing::debug!(key = self.key_id, ?usage, "settled");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.key_id) {
            *count = count.saturating_sub(self.choices);
            if *count == 0 {
                running.remove(&self.key_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let limit = PerKeyLimit::new(3);
        let caller = |key: &str| Caller { key_id: key.to_owned(), user_id: None };
        let admit = |key: &str, choices| {
            let caller = caller(key);
            limit.admit(&Demand { caller: &caller, route: "x", prompt_tokens: 1, max_tokens: None, choices })
        };
        let Ok(two) = admit("a", 2) else { panic!("there is room for two") };
        assert_eq!(admit("a", 2).err(), Some(Refusal::TooMany { limit: 3 }));
        let other = admit("b", 3).ok();
        assert!(other.is_some(), "another key has places of its own");
        drop(two);
        assert!(admit("a", 3).is_ok());
        drop(other);
        assert!(limit.running.lock().unwrap().is_empty());
    }
}
