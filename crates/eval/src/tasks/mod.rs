//! Tasks whose answers a program can judge: what a small model is trained for, on examples it has not seen.

mod arithmetic;
mod poems;

use std::collections::BTreeMap;

use serde::Serialize;

pub use arithmetic::Arithmetic;
pub use poems::Poems;

/// Questions, and who is right.
pub trait Task {
    /// Its name.
    fn name(&self) -> &'static str;

    /// How many questions there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the user asks.
    fn question(&self, number: usize) -> String;

    /// What kind of question it is, for the table.
    fn kind(&self, number: usize) -> String;

    /// Whether `answer`, without its reasoning, is right.
    fn judge(&self, number: usize, answer: &str) -> bool;
}

/// Right ones among some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Right ones.
    pub right: usize,
    /// All.
    pub of: usize,
}

impl Tally {
    /// Counts one more.
    pub fn count(&mut self, right: bool) {
        self.right += usize::from(right);
        self.of += 1;
    }

    /// Right ones as a share; 0 of none.
    pub fn share(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.right as f64 / self.of as f64 }
    }

    /// Where the true share lies with 95 % confidence (Wilson's interval).
    pub fn interval(self) -> [f64; 2] {
        if self.of == 0 {
            return [0.0, 1.0];
        }
        let (n, p, z) = (self.of as f64, self.share(), 1.96f64);
        let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        [(middle - half).max(0.0), (middle + half).min(1.0)]
    }
}

/// How a model did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Results {
    /// All questions.
    pub all: Tally,
    /// By kind.
    pub kinds: BTreeMap<String, Tally>,
}

impl Results {
    /// Counts the answer to question `number`; true if it is right.
    pub fn count(&mut self, task: &dyn Task, number: usize, answer: &str) -> bool {
        let right = task.judge(number, answer);
        self.all.count(right);
        self.kinds.entry(task.kind(number)).or_default().count(right);
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_the_share_and_narrow() {
        let tally = |right, of| Tally { right, of };
        assert_eq!(tally(0, 0).interval(), [0.0, 1.0]);
        let (few, many) = (tally(19, 20).interval(), tally(950, 1000).interval());
        assert!(few[0] < many[0] && many[0] < 0.95 && 0.95 < many[1] && many[1] < few[1], "{few:?} {many:?}");
        assert!((many[0] - 0.9347).abs() < 1e-3 && (many[1] - 0.9618).abs() < 1e-3, "{many:?}");
        assert_eq!(tally(10, 10).interval()[1], 1.0);
    }
}
