//! How a result is worked out: written for a small model, which sees what it needs near by or under a unique name.
//!
//! Every expression begins with its operands, each digit behind the name of its place: `D C B A` for the thousands,
//! hundreds, tens and units of the first operand, `S R Q P` for those of the second, always four. Then come steps from
//! the units (`a`) to the thousands (`d`), each of which states every carry, and `=` with the result, place by place
//! with leading zeros. Two-digit groups are a carry and a digit.
//!
//! ```text
//! 4785+967               42-967                 4785*67                            4785/67
//! D4C7B8A5+S0R9Q6P7      D0C0B4A2-S0R9Q6P7      D4C7B8A5*S0R0Q6P7                  D4C7B8A5/S0R0Q6P7
//! a12b15c17d05           d=c<b<a<               P7a3535b5659c4954d2833             D0004z0
//! =05752                 <a05b02c09d00          Q6a3039b4855c4250d2432             C0047y0
//!                        =0925                  =320595                            B0478x7a4919b4600c0400d0000<
//!                                                                                  A0095w1a0718b0602c0000d0000<
//!                                                                                  =z0y0x7w1,0028
//! ```
//!
//! * Addition, one place: carry and digit of the sum of both digits and the carry before.
//! * Subtraction compares the places first; the line of steps begins with the verdict and takes the smaller number from
//!   the larger: borrow and digit.
//! * Multiplication, one line for each digit of the second operand (`P`, `Q`, …): at each place the product of two
//!   digits, and then that product plus the carry plus what the lines above have at this place.
//! * Division, one line for each digit of the dividend (`D` … `A`): what is to be divided, the quotient's place and digit
//!   (`z` … `w`), and, unless that is 0, at each place the product with its carry, and borrow and digit of the
//!   difference. The line ends with a verdict: `<`, the difference is below the divisor; `>`, it is not, so the digit was
//!   too small; `-`, there is no such difference, so the digit was too large; the line is then done again with the next
//!   digit.

use std::fmt::Write as _;

use super::{DIGITS_MAX, Expression, Operation, digits};
use crate::generate::draw::Draw;

/// Names of places, units first: of the operands, of steps, and of a quotient.
pub(super) const FIRST: [char; DIGITS_MAX] = ['A', 'B', 'C', 'D'];
pub(super) const SECOND: [char; DIGITS_MAX] = ['P', 'Q', 'R', 'S'];
pub(super) const STEP: [char; DIGITS_MAX] = ['a', 'b', 'c', 'd'];
pub(super) const QUOTIENT: [char; DIGITS_MAX] = ['w', 'x', 'y', 'z'];

/// Digits by place, units first.
type Digits = [u64; DIGITS_MAX];

/// The reasoning of one expression. Only a division draws: now and then it tries a wrong digit that was a close call.
pub(super) fn write(draw: &mut Draw, expression: Expression) -> String {
    let (left, right) = (places(expression.left), places(expression.right));
    let mut text = labelled(FIRST, left);
    text.push(expression.operation.symbol());
    text += &labelled(SECOND, right);
    text.push('\n');
    match expression.operation {
        Operation::Addition => addition(&mut text, left, right),
        Operation::Subtraction => subtraction(&mut text, left, right),
        Operation::Multiplication => multiplication(&mut text, left, &right[..digits(expression.right)]),
        Operation::Division => division(&mut text, draw, left, expression.right),
    }
    text
}

fn places(number: u64) -> Digits {
    std::array::from_fn(|place| number / 10u64.pow(place as u32) % 10)
}

/// `D4C7B8A5`
fn labelled(names: [char; DIGITS_MAX], digits: Digits) -> String {
    names.iter().zip(digits).rev().map(|(name, digit)| format!("{name}{digit}")).collect()
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes everything");
}

/// `=` and the digits, the highest place first.
fn push_result(text: &mut String, digits_units_first: impl DoubleEndedIterator<Item = u64>) {
    text.push('=');
    for digit in digits_units_first.rev() {
        push(text, format_args!("{digit}"));
    }
}

fn addition(text: &mut String, left: Digits, right: Digits) {
    let (mut carry, mut sum) = (0, Vec::new());
    for place in 0..DIGITS_MAX {
        let total = left[place] + right[place] + carry;
        push(text, format_args!("{}{total:02}", STEP[place]));
        carry = total / 10;
        sum.push(total % 10);
    }
    sum.push(carry);
    text.push('\n');
    push_result(text, sum.into_iter());
}

fn subtraction(text: &mut String, left: Digits, right: Digits) {
    let sign = |a: u64, b: u64| match a.cmp(&b) {
        std::cmp::Ordering::Less => '<',
        std::cmp::Ordering::Equal => '=',
        std::cmp::Ordering::Greater => '>',
    };
    for place in (0..DIGITS_MAX).rev() {
        push(text, format_args!("{}{}", STEP[place], sign(left[place], right[place])));
    }
    let verdict =
        (0..DIGITS_MAX).rev().map(|place| sign(left[place], right[place])).find(|&sign| sign != '=');
    let verdict = verdict.unwrap_or('=');
    let (larger, smaller) = if verdict == '<' { (right, left) } else { (left, right) };
    push(text, format_args!("\n{verdict}"));
    let (mut borrow, mut difference) = (0, Vec::new());
    for place in 0..DIGITS_MAX {
        let digit = larger[place] + 10 - smaller[place] - borrow;
        borrow = 1 - digit / 10;
        push(text, format_args!("{}{borrow}{}", STEP[place], digit % 10));
        difference.push(digit % 10);
    }
    text.push('\n');
    push_result(text, difference.into_iter());
}

fn multiplication(text: &mut String, left: Digits, right: &[u64]) {
    let mut result = vec![0; DIGITS_MAX + right.len()];
    for (row, &factor) in right.iter().enumerate() {
        push(text, format_args!("{}{factor}", SECOND[row]));
        let mut carry = 0;
        for place in 0..DIGITS_MAX {
            let product = left[place] * factor;
            let total = product + carry + result[row + place];
            push(text, format_args!("{}{product:02}{total:02}", STEP[place]));
            carry = total / 10;
            result[row + place] = total % 10;
        }
        result[row + DIGITS_MAX] = carry;
        text.push('\n');
    }
    push_result(text, result.into_iter());
}

fn division(text: &mut String, draw: &mut Draw, dividend: Digits, divisor: u64) {
    let (mut rest, mut quotient) = (0, [0; DIGITS_MAX]);
    for place in (0..DIGITS_MAX).rev() {
        rest = rest * 10 + dividend[place];
        quotient[place] = rest / divisor;
        if let Some(guess) = close_call(draw, rest, divisor) {
            trial(text, place, rest, (guess, divisor));
        }
        trial(text, place, rest, (quotient[place], divisor));
        rest %= divisor;
    }
    push(text, format_args!("={},{rest:04}", labelled(QUOTIENT, quotient)));
}

/// A wrong digit of a quotient that a careful reader of the leading digits may still choose.
fn close_call(draw: &mut Draw, rest: u64, divisor: u64) -> Option<u64> {
    let (right, over) = (rest / divisor, rest % divisor * 100 / divisor);
    if divisor < 10 || right == 0 || !draw.chance(20) {
        return None;
    }
    match over {
        ..15 if right > 1 => Some(right - 1),
        // The product must keep to four places.
        85.. if right < 9 && (right + 1) * divisor < 10_000 => Some(right + 1),
        _ => None,
    }
}

/// One line: `rest` divided by trying one digit.
fn trial(text: &mut String, place: usize, rest: u64, (digit, divisor): (u64, u64)) {
    push(text, format_args!("{}{rest:04}{}{digit}", FIRST[place], QUOTIENT[place]));
    if digit > 0 {
        let (rests, factors) = (places(rest), places(divisor));
        let (mut carry, mut borrow) = (0, 0);
        for step in 0..DIGITS_MAX {
            let product = factors[step] * digit + carry;
            let difference = rests[step] + 10 - product % 10 - borrow;
            carry = product / 10;
            borrow = 1 - difference / 10;
            push(text, format_args!("{}{product:02}{borrow}{}", STEP[step], difference % 10));
        }
        text.push(match rest.checked_sub(digit * divisor) {
            None => '-',
            Some(left) if left < divisor => '<',
            Some(_) => '>',
        });
    }
    text.push('\n');
}
