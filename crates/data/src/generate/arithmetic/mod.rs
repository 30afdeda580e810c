//! Integer arithmetic with its reasoning: + − × of up to four digits, ÷ with remainder, and short stories.
//!
//! A problem is one conversation: a question in English or Chinese, and an answer that thinks inside `<think>…</think>`
//! (`reasoning.rs` tells how) and then says the number. A problem whose operations are all on the training side of the
//! split ([`Expression::split`]) is a training problem; every other is held out. So no held-out problem, and no
//! commuted twin of one, is ever seen in training.

mod phrases;
mod reasoning;
mod sample;
mod stories;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

use super::draw::Draw;
use super::{Split, Turn, exchange, scramble};

/// Operands have at most this many digits.
pub const DIGITS_MAX: usize = 4;

/// One expression in this many is held out.
const HELD_OUT_ONE_IN: u64 = 16;

/// What is done with two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// a + b
    Addition,
    /// a − b, which may be below zero
    Subtraction,
    /// a × b
    Multiplication,
    /// a ÷ b: quotient and remainder
    Division,
}

impl Operation {
    /// All, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Addition, Self::Subtraction, Self::Multiplication, Self::Division];

    /// As the reasoning writes it.
    pub fn symbol(self) -> char {
        match self {
            Self::Addition => '+',
            Self::Subtraction => '-',
            Self::Multiplication => '*',
            Self::Division => '/',
        }
    }
}

/// Two numbers and an operation. Operands are below 10^[`DIGITS_MAX`], a divisor is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Expression {
    /// The first operand.
    pub left: u64,
    /// The operation.
    pub operation: Operation,
    /// The second operand.
    pub right: u64,
}

/// What an expression is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Sum, difference, product or quotient.
    pub value: i64,
    /// What a division leaves; 0 for other operations.
    pub remainder: u64,
}

impl Expression {
    /// Its exact result.
    pub fn outcome(self) -> Outcome {
        let (left, right) = (self.left as i64, self.right as i64);
        let (value, remainder) = match self.operation {
            Operation::Addition => (left + right, 0),
            Operation::Subtraction => (left - right, 0),
            Operation::Multiplication => (left * right, 0),
            Operation::Division => (left / right, self.left % self.right),
        };
        Outcome { value, remainder }
    }

    /// The side of the split that the expression lies on: by a hash of the operation and its operands, which for
    /// addition and multiplication does not depend on their order.
    pub fn split(self) -> Split {
        let (mut left, mut right) = (self.left, self.right);
        if matches!(self.operation, Operation::Addition | Operation::Multiplication) {
            (left, right) = (left.min(right), left.max(right));
        }
        let hash = scramble(self.operation as u64 ^ scramble(left ^ scramble(right)));
        if hash.is_multiple_of(HELD_OUT_ONE_IN) { Split::HeldOut } else { Split::Train }
    }

    /// The digits of its operands.
    pub fn digits(self) -> (usize, usize) {
        (digits(self.left), digits(self.right))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.left, self.operation.symbol(), self.right)
    }
}

/// How many digits `number` is written with.
fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The language of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// English.
    English,
    /// Chinese, in simplified or traditional script.
    Chinese,
}

/// A problem, worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is computed, in order; a story may have two.
    pub expressions: Vec<Expression>,
    /// Whether it is told as a story.
    pub story: bool,
    /// The language of the question.
    pub language: Language,
    /// The question.
    pub question: String,
    /// What stands between `<think>` and `</think>`.
    pub reasoning: String,
    /// What stands after it.
    pub answer: String,
}

impl Problem {
    /// Problem number `number` of those that `seed` names on one side of the split.
    pub fn generate(seed: u64, number: u64, split: Split) -> Self {
        let mut draw = Draw::new(seed, number);
        loop {
            let problem = Self::draw(&mut draw);
            if problem.split() == split {
                return problem;
            }
        }
    }

    /// [`Split::Train`] if every operation in it is.
    pub fn split(&self) -> Split {
        let train = self.expressions.iter().all(|expression| expression.split() == Split::Train);
        if train { Split::Train } else { Split::HeldOut }
    }

    /// The conversation.
    pub fn turns(&self) -> Vec<Turn> {
        exchange(self.question.clone(), format!("<think>{}</think>{}", self.reasoning, self.answer))
    }

    fn draw(draw: &mut Draw) -> Self {
        let language = if draw.chance(50) { Language::English } else { Language::Chinese };
        let kind = draw.weighted(&[14, 18, 26, 24, 18]);
        if let Some(&operation) = Operation::ALL.get(kind) {
            let expression = sample::expression(draw, operation);
            let question = phrases::question(draw, expression, language);
            Self::work(draw, vec![expression], (false, language, question))
        } else {
            let (expressions, question) = stories::tell(draw, language);
            Self::work(draw, expressions, (true, language, question))
        }
    }

    fn work(draw: &mut Draw, expressions: Vec<Expression>, asked: (bool, Language, String)) -> Self {
        let (story, language, question) = asked;
        let reasoning: Vec<String> =
            expressions.iter().map(|&expression| reasoning::write(draw, expression)).collect();
        let last = expressions.last().expect("a problem has an expression").outcome();
        Self {
            expressions,
            story,
            language,
            question,
            reasoning: reasoning.join("\n"),
            answer: say(last, language),
        }
    }
}

/// An outcome in words: `71`, `-5`, `71 remainder 28`, `71余28`.
fn say(outcome: Outcome, language: Language) -> String {
    let Outcome { value, remainder } = outcome;
    match (remainder, language) {
        (0, _) => value.to_string(),
        (_, Language::English) => format!("{value} remainder {remainder}"),
        (_, Language::Chinese) => format!("{value}余{remainder}"),
    }
}

/// The result that an answer states, read as [`Problem::answer`] writes it: white space around it does not count.
/// `None` for any other text.
pub fn read_answer(answer: &str) -> Option<Outcome> {
    let answer = answer.trim();
    let parts = answer.split_once("余").or_else(|| answer.split_once(" remainder "));
    let (value, remainder) = parts.unwrap_or((answer, "0"));
    Some(Outcome { value: value.trim().parse().ok()?, remainder: remainder.trim().parse().ok()? })
}
