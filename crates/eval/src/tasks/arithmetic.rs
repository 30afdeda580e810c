//! Arithmetic that was held out of training.

use fathom_data::generate::Split;
use fathom_data::generate::arithmetic::{Operation, Problem, read_answer};

use super::Task;

/// Problems of [`fathom_data::generate::arithmetic`], on the held-out side.
#[derive(Clone, Debug)]
pub struct Arithmetic {
    problems: Vec<Problem>,
}

impl Arithmetic {
    /// The first `count` problems that `seed` names.
    pub fn new(seed: u64, count: usize) -> Self {
        Self {
            problems: (0..count as u64)
                .map(|number| Problem::generate(seed, number, Split::HeldOut))
                .collect(),
        }
    }
}

impl Task for Arithmetic {
    fn name(&self) -> &'static str {
        "arithmetic"
    }

    fn len(&self) -> usize {
        self.problems.len()
    }

    fn question(&self, number: usize) -> String {
        self.problems[number].question.clone()
    }

    fn kind(&self, number: usize) -> String {
        let problem = &self.problems[number];
        if problem.story {
            return "story".to_owned();
        }
        match problem.expressions[0].operation {
            Operation::Addition => "+",
            Operation::Subtraction => "−",
            Operation::Multiplication => "×",
            Operation::Division => "÷",
        }
        .to_owned()
    }

    fn judge(&self, number: usize, answer: &str) -> bool {
        let problem = &self.problems[number];
        let expected = problem.expressions.last().expect("a problem has an expression").outcome();
        read_answer(answer) == Some(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_answer_is_right_and_another_is_not() {
        let task = Arithmetic::new(3, 60);
        assert_eq!(task.len(), 60);
        for number in 0..task.len() {
            let answer = &task.problems[number].answer;
            assert!(task.judge(number, &format!(" {answer}\n")), "{answer}");
            assert!(!task.judge(number, &format!("{answer}1")) && !task.judge(number, ""));
        }
        let kinds: std::collections::BTreeSet<String> = (0..60).map(|number| task.kind(number)).collect();
        assert_eq!(kinds.len(), 5, "{kinds:?}");
    }
}
