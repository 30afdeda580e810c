//! Operands: every length, with more zeros, nines, near pairs and exact quotients than chance would bring.

use super::{DIGITS_MAX, Expression, Operation, digits};
use crate::generate::draw::Draw;

/// How often a number has one, two, three and four digits.
const LENGTHS: [u64; DIGITS_MAX] = [15, 23, 28, 34];

/// Operands for `operation`.
pub(super) fn expression(draw: &mut Draw, operation: Operation) -> Expression {
    let (left, right) = match operation {
        Operation::Addition | Operation::Multiplication => (number(draw), number(draw)),
        Operation::Subtraction => difference(draw),
        Operation::Division => quotient(draw),
    };
    Expression { left, operation, right }
}

/// A number of a random length; in one of six, some digits are 0 or 9.
pub(super) fn number(draw: &mut Draw) -> u64 {
    let length = draw.weighted(&LENGTHS) + 1;
    let number = of_length(draw, length);
    if !draw.chance(17) {
        return number;
    }
    let rare = if draw.chance(60) { 0 } else { 9 };
    let scale = 10u64.pow(draw.below(length as u64) as u32);
    // The first digit stays, so that the length does.
    let keep = if rare == 0 && scale * 10 > number { 1 } else { scale };
    number - number / keep % 10 * keep + rare * keep
}

/// A number of exactly `length` digits; 0 counts as one.
pub(super) fn of_length(draw: &mut Draw, length: usize) -> u64 {
    let first = if length == 1 { 0 } else { 10u64.pow(length as u32 - 1) };
    draw.between(first, 10u64.pow(length as u32) - 1)
}

/// Two numbers; in one of four cases they share their first digits or are equal.
fn difference(draw: &mut Draw) -> (u64, u64) {
    let left = number(draw);
    if draw.chance(75) {
        return (left, number(draw));
    }
    let scale = 10u64.pow(draw.below(digits(left) as u64) as u32);
    (left, left / scale * scale + draw.below(scale))
}

/// Dividend and divisor: half of them by one digit, four in ten without remainder, a few of zero or of less than the
/// divisor.
fn quotient(draw: &mut Draw) -> (u64, u64) {
    let length = draw.weighted(&[45, 30, 15, 10]) + 1;
    let divisor = of_length(draw, length).max(1);
    let largest = 10u64.pow(DIGITS_MAX as u32) - 1;
    let dividend = match draw.weighted(&[40, 50, 10]) {
        0 => divisor * draw.between(1, largest / divisor),
        1 => draw.between(divisor, largest),
        _ => number(draw),
    };
    // Short dividends too: of large ones some are cut to the divisor's length and one more.
    let short = 10u64.pow(length as u32 + 1);
    if dividend > short && draw.chance(40) {
        let quotient = dividend / divisor % 10;
        return (quotient * divisor + dividend % divisor, divisor);
    }
    (dividend, divisor)
}
