//! The ways in which somebody asks for a sum, a difference, a product or a quotient.

use super::{Expression, Language, Operation};
use crate::generate::draw::Draw;

/// A question for `expression`. Either language may write the bare expression.
pub(super) fn question(draw: &mut Draw, expression: Expression, language: Language) -> String {
    let form = match language {
        Language::English => draw.choose(&[
            "{s}",
            "{s}",
            "{s}=",
            "{s} = ?",
            "What is {s}?",
            "What is {s}?",
            "What is {w}?",
            "Calculate {s}.",
            "Compute {s}.",
            "How much is {s}?",
            "How much is {w}?",
            "Please work out {s}.",
            "Solve {s}",
            "What's {w}?",
            "Find {s}.",
        ]),
        Language::Chinese => draw.choose(&[
            "{s}等于多少？",
            "{s}等于多少？",
            "{w}等于多少？",
            "{w}等于多少？",
            "{w}等於多少？",
            "计算{s}",
            "计算：{s}",
            "計算{s}。",
            "请计算{s}。",
            "{s}=？",
            "{s}是多少？",
            "{w}是多少？",
            "{w}得多少？",
            "求{s}的结果。",
            "算一下{s}",
        ]),
    };
    let form = form.replace("{s}", &symbols(draw, expression));
    form.replace("{w}", &words(draw, expression, language))
}

/// `12+5`, `12 × 5`
fn symbols(draw: &mut Draw, expression: Expression) -> String {
    let symbol = match expression.operation {
        Operation::Addition => "+",
        Operation::Subtraction => draw.choose(&["-", "-", "−"]),
        Operation::Multiplication => draw.choose(&["*", "×", "×", "x"]),
        Operation::Division => draw.choose(&["/", "÷", "÷"]),
    };
    let gap = draw.choose(&["", " "]);
    format!("{}{gap}{symbol}{gap}{}", expression.left, expression.right)
}

/// `12 plus 5`, `12加5`
fn words(draw: &mut Draw, expression: Expression, language: Language) -> String {
    let words: &[&str] = match (language, expression.operation) {
        (Language::English, Operation::Addition) => &[" plus ", " added to "],
        (Language::English, Operation::Subtraction) => &[" minus "],
        (Language::English, Operation::Multiplication) => &[" times ", " multiplied by "],
        (Language::English, Operation::Division) => &[" divided by "],
        (Language::Chinese, Operation::Addition) => &["加", "加上"],
        (Language::Chinese, Operation::Subtraction) => &["减", "减去", "減"],
        (Language::Chinese, Operation::Multiplication) => &["乘", "乘以"],
        (Language::Chinese, Operation::Division) => &["除以"],
    };
    format!("{}{}{}", expression.left, draw.choose(words), expression.right)
}
