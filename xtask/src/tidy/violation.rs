//! One broken rule at one place, and the row test that all rules share.

use std::fmt;

/// A broken rule. Printed as `path:line: rule: message, mend`.
#[derive(Debug, PartialEq)]
pub(super) struct Violation {
    pub(super) path: String,
    /// Counted from 1, as editors do.
    pub(super) line: usize,
    pub(super) rule: &'static str,
    pub(super) message: String,
    /// What to do about it.
    pub(super) mend: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}, {}", self.path, self.line, self.rule, self.message, self.mend)
    }
}

/// Asserts that exactly these rules are broken at these lines; an empty list makes a GOOD row.
#[cfg(test)]
#[track_caller]
pub(super) fn expect(found: Vec<Violation>, rows: &[(usize, &str)]) {
    let got: Vec<(usize, &str)> = found.iter().map(|v| (v.line, v.rule)).collect();
    assert_eq!(got, rows, "{found:#?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_reads_as_place_rule_message_mend() {
        let violation = Violation {
            path: "a.rs".into(),
            line: 3,
            rule: "size",
            message: "too long".into(),
            mend: "split it",
        };
        assert_eq!(violation.to_string(), "a.rs:3: size: too long, split it");
    }
}
