//! Short stories of one or two operations: people, things, prices and sharing, in English and Chinese.

use super::sample::of_length;
use super::{Expression, Language, Operation};
use crate::generate::draw::Draw;

use Operation::{Addition as Add, Division as Divide, Multiplication as Multiply, Subtraction as Subtract};

/// What a story computes from the numbers `{a}`, `{b}` and `{c}` that it names.
#[derive(Clone, Copy)]
enum Plan {
    /// a ∘ b
    One(Operation),
    /// (a ∘ b) ∘ c
    FirstTwo(Operation, Operation),
    /// a ∘ (b ∘ c): the inner operation comes second
    LastTwo(Operation, Operation),
}

use Plan::{FirstTwo, LastTwo, One};

/// Stories in English: `{n}` and `{m}` are people, `{t}` things.
const ENGLISH: &[(Plan, &str)] = &[
    (One(Add), "{n} has {a} {t} and buys {b} more. How many {t} does {n} have now?"),
    (One(Add), "There are {a} {t} in one box and {b} in another. How many {t} are there altogether?"),
    (One(Add), "{n} collected {a} {t} and {m} collected {b}. How many {t} did they collect in total?"),
    (One(Add), "A shop sold {a} {t} on Monday and {b} on Tuesday. How many {t} did it sell on both days?"),
    (One(Subtract), "{n} had {a} {t} and gave {b} to {m}. How many {t} are left?"),
    (One(Subtract), "A shop had {a} {t} and sold {b}. How many {t} does it still have?"),
    (One(Subtract), "{n} has {a} {t}, {m} has {b}. How many more {t} does {n} have than {m}?"),
    (One(Subtract), "{n} has {a} dollars and spends {b}. How many dollars remain?"),
    (One(Multiply), "A box holds {a} {t}. How many {t} are in {b} boxes?"),
    (One(Multiply), "One of the {t} costs {a} dollars. How much do {b} of them cost?"),
    (One(Multiply), "{n} buys {b} bags with {a} {t} each. How many {t} are that?"),
    (One(Multiply), "There are {a} rows of {b} {t}. How many {t} are there?"),
    (One(Divide), "{a} {t} are shared equally among {b} people. How many does each person get?"),
    (
        One(Divide),
        "{n} packs {a} {t} into boxes of {b}. How many full boxes are there, and how many are left over?",
    ),
    (One(Divide), "{b} of the {t} cost {a} dollars. How much does one of them cost?"),
    (FirstTwo(Multiply, Add), "{n} has {a} boxes of {b} {t} and {c} more. How many {t} does {n} have?"),
    (FirstTwo(Multiply, Subtract), "{n} buys {a} bags of {b} {t} and gives away {c}. How many {t} are left?"),
    (FirstTwo(Add, Subtract), "{n} had {a} {t}, got {b} more and lost {c}. How many {t} does {n} have now?"),
    (
        FirstTwo(Subtract, Subtract),
        "A shop had {a} {t}. It sold {b} in the morning and {c} in the afternoon. How many are left?",
    ),
    (FirstTwo(Add, Multiply), "A set has {a} red and {b} blue {t}. How many {t} are in {c} sets?"),
    (
        FirstTwo(Add, Divide),
        "{n} has {a} {t} and {m} has {b}. They share them equally among {c} people. How many does each get?",
    ),
    (
        LastTwo(Subtract, Multiply),
        "{n} has {a} dollars and buys {b} {t} for {c} dollars each. How many dollars are left?",
    ),
    (
        LastTwo(Add, Multiply),
        "{n} had {a} {t} and then bought {b} boxes of {c}. How many {t} does {n} have now?",
    ),
];

/// The same in Chinese.
const CHINESE: &[(Plan, &str)] = &[
    (One(Add), "{n}有{a}{t}，又买了{b}。{n}现在一共有多少{t}？"),
    (One(Add), "一个箱子里有{a}{t}，另一个箱子里有{b}。一共有多少{t}？"),
    (One(Add), "{n}收集了{a}{t}，{m}收集了{b}。他们一共收集了多少{t}？"),
    (One(Add), "商店星期一卖出{a}{t}，星期二卖出{b}。两天一共卖出多少{t}？"),
    (One(Subtract), "{n}有{a}{t}，给了{m}{b}。还剩多少{t}？"),
    (One(Subtract), "商店有{a}{t}，卖出了{b}。还剩多少{t}？"),
    (One(Subtract), "{n}有{a}{t}，{m}有{b}。{n}比{m}多多少{t}？"),
    (One(Subtract), "{n}有{a}元，花了{b}元。还剩多少元？"),
    (One(Multiply), "每箱有{a}{t}，{b}箱一共有多少{t}？"),
    (One(Multiply), "一{t}卖{a}元，买{b}要多少元？"),
    (One(Multiply), "{n}买了{b}袋，每袋{a}{t}。一共有多少{t}？"),
    (One(Multiply), "有{a}排，每排{b}{t}。一共有多少{t}？"),
    (One(Divide), "把{a}{t}平均分给{b}个人，每人分到多少？"),
    (One(Divide), "{n}有{a}{t}，每{b}装一箱。可以装满多少箱，还剩多少？"),
    (One(Divide), "{b}{t}一共卖{a}元，每{t}多少元？"),
    (FirstTwo(Multiply, Add), "{n}有{a}箱，每箱{b}{t}，另外还有{c}。{n}一共有多少{t}？"),
    (FirstTwo(Multiply, Subtract), "{n}买了{a}袋，每袋{b}{t}，送走了{c}。还剩多少{t}？"),
    (FirstTwo(Add, Subtract), "{n}有{a}{t}，又得到{b}，后来丢了{c}。现在有多少{t}？"),
    (FirstTwo(Subtract, Subtract), "商店有{a}{t}，上午卖出{b}，下午卖出{c}。还剩多少{t}？"),
    (FirstTwo(Add, Multiply), "每套有红的{a}{t}，蓝的{b}。{c}套一共有多少{t}？"),
    (FirstTwo(Add, Divide), "{n}有{a}{t}，{m}有{b}。把它们平均分给{c}个人，每人分到多少？"),
    (LastTwo(Subtract, Multiply), "{n}有{a}元，买了{b}{t}，每{t}{c}元。还剩多少元？"),
    (LastTwo(Add, Multiply), "{n}原来有{a}{t}，又买了{b}箱，每箱{c}。现在有多少{t}？"),
];

const PEOPLE: (&[&str], &[&str]) = (
    &["Tom", "Anna", "Ben", "Mia", "Sam", "Lily", "Jack", "Emma", "Li", "Wang"],
    &["小明", "小红", "小华", "小丽", "小刚", "老王", "小李", "小美"],
);
const THINGS: (&[&str], &[&str]) = (
    &["apples", "books", "pens", "stamps", "marbles", "eggs", "cards", "flowers", "oranges", "stickers"],
    &["个苹果", "本书", "支笔", "张邮票", "个鸡蛋", "张卡片", "朵花", "个橘子", "颗糖", "个球"],
);

/// A story: what is computed, and how it is told.
pub(super) fn tell(draw: &mut Draw, language: Language) -> (Vec<Expression>, String) {
    let (stories, people, things) = match language {
        Language::English => (ENGLISH, PEOPLE.0, THINGS.0),
        Language::Chinese => (CHINESE, PEOPLE.1, THINGS.1),
    };
    let (plan, story) = stories[draw.below(stories.len() as u64) as usize];
    let (expressions, numbers) = loop {
        if let Some(found) = numbers(draw, plan) {
            break found;
        }
    };
    let first = draw.below(people.len() as u64) as usize;
    let second = (first + 1 + draw.below(people.len() as u64 - 1) as usize) % people.len();
    let mut text = story.replace("{n}", people[first]).replace("{m}", people[second]);
    text = text.replace("{t}", draw.choose(things));
    for (name, number) in ["{a}", "{b}", "{c}"].into_iter().zip(numbers) {
        text = text.replace(name, &number.to_string());
    }
    (expressions, text)
}

/// Numbers that make sense for a plan, and what is computed with them; `None` for a draw that does not.
fn numbers(draw: &mut Draw, plan: Plan) -> Option<(Vec<Expression>, [u64; 3])> {
    let [a, b, c] = [any(draw), any(draw), any(draw)];
    match plan {
        One(operation) => {
            let only = sensible(draw, a, operation, b)?;
            Some((vec![only], [only.left, only.right, 0]))
        }
        FirstTwo(inner, outer) => {
            let first = sensible(draw, a, inner, b)?;
            let second = sensible(draw, value(first)?, outer, c)?;
            Some((vec![first, second], [first.left, first.right, second.right]))
        }
        LastTwo(outer, inner) => {
            let first = sensible(draw, b, inner, c)?;
            let second = sensible(draw, a, outer, value(first)?)?;
            Some((vec![first, second], [second.left, first.left, first.right]))
        }
    }
}

/// A number of things: seldom four digits.
fn any(draw: &mut Draw) -> u64 {
    let length = draw.weighted(&[25, 40, 25, 10]) + 1;
    of_length(draw, length).max(2)
}

/// The operation, if things can be counted so: nothing negative, products of few digits, and what is shared comes out
/// even or is about what is left.
fn sensible(draw: &mut Draw, left: u64, operation: Operation, right: u64) -> Option<Expression> {
    let makes_sense = match operation {
        Add => true,
        Subtract => left >= right,
        Multiply => right < 100 && left * right < 10_000,
        // A divisor of one digit, most of the time.
        Divide => right > 1 && left >= right && right < if draw.chance(70) { 10 } else { 100 },
    };
    makes_sense.then_some(Expression { left, operation, right })
}

/// The value of a first operation, if a second can work with it.
fn value(expression: Expression) -> Option<u64> {
    u64::try_from(expression.outcome().value).ok().filter(|&value| value < 10_000)
}
