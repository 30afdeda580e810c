//! Rotary positions (Su et al., arXiv 2104.09864): pair `i` of a head at position `p` turns by `p · frequency_i`.
//!
//! The derivative of a rotation is the rotation back, so backward is the same loop with the sines negated. (A scale
//! that multiplies cosines and sines, as YaRN may have, multiplies the gradient too: backward is the transpose and
//! not the inverse.)

use crate::Compute;
use crate::math::per_isa;
use crate::shared::SharedSlice;

/// Which two numbers of a rotary part of `width` numbers form pair `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `(2 i, 2 i + 1)`: DeepSeek.
    Adjacent,
    /// `(i, i + width / 2)`: Llama.
    Halves,
}

/// Cosines and sines of positions `0..positions`.
#[derive(Clone, Debug)]
pub struct Table {
    pairing: Pairing,
    /// Numbers of a rotary part.
    width: usize,
    /// `[positions, width]`: the factor of a number itself.
    own: Vec<f32>,
    /// `[positions, width]`: the factor of its partner, with the sign it has in a forward rotation.
    partner: Vec<f32>,
}

impl Table {
    /// Pair `i` turns by `frequencies[i]` radians per position; results are multiplied by `scale`.
    pub fn new(frequencies: &[f64], scale: f64, positions: usize, pairing: Pairing) -> Self {
        let (half, width) = (frequencies.len(), 2 * frequencies.len());
        let mut table =
            Self { pairing, width, own: vec![0.0; positions * width], partner: vec![0.0; positions * width] };
        for position in 0..positions {
            for (pair, &frequency) in frequencies.iter().enumerate() {
                // The angle is rounded to f32 before cos and sin, as the references do.
                let angle = f64::from(position as f32 * frequency as f32);
                let (cos, sin) = ((angle.cos() * scale) as f32, (angle.sin() * scale) as f32);
                let [first, second] = match pairing {
                    Pairing::Adjacent => [2 * pair, 2 * pair + 1],
                    Pairing::Halves => [pair, pair + half],
                };
                let at = position * width;
                (table.own[at + first], table.own[at + second]) = (cos, cos);
                (table.partner[at + first], table.partner[at + second]) = (-sin, sin);
            }
        }
        table
    }

    /// How many positions it knows.
    pub fn positions(&self) -> usize {
        self.own.len().checked_div(self.width).unwrap_or(0)
    }
}

/// The position of every token.
#[derive(Clone, Copy, Debug)]
pub enum Positions<'a> {
    /// Sequences of so many tokens one after the other, each counted from 0.
    Sequences(usize),
    /// `[tokens]`.
    Given(&'a [u32]),
}

impl Positions<'_> {
    fn of(self, token: usize) -> usize {
        match self {
            Positions::Sequences(len) => token % len,
            Positions::Given(positions) => positions[token] as usize,
        }
    }
}

/// Where the heads of tokens are: head `h` of token `t` begins at `t · token_stride + h · head_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Heads per token.
    pub count: usize,
    /// Numbers per head.
    pub width: usize,
    /// From one token to the next.
    pub token_stride: usize,
    /// From one head to the next.
    pub head_stride: usize,
}

impl Heads {
    /// `[tokens, count, width]` without gaps.
    pub fn dense(count: usize, width: usize) -> Self {
        Self { count, width, token_stride: count * width, head_stride: width }
    }

    fn tokens(self, len: usize) -> usize {
        let first = (self.count.max(1) - 1) * self.head_stride + self.width;
        len.checked_sub(first).map_or(0, |rest| rest / self.token_stride + 1)
    }
}

/// A rotation of the part of every head that begins at number `first`.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Angles and pairs.
    pub table: &'a Table,
    /// Which angles a token gets.
    pub positions: Positions<'a>,
    /// Numbers of a head before its rotary part.
    pub first: usize,
    /// The way back: for gradients.
    pub backward: bool,
}

impl Rotation<'_> {
    /// The rotation that turns a gradient of results into a gradient of inputs.
    pub fn backward(self) -> Self {
        Self { backward: !self.backward, ..self }
    }

    /// Rotates in place.
    ///
    /// # Panics
    /// If the rotary part leaves its head, or a position the table.
    pub fn apply(&self, compute: &Compute, values: &mut [f32], heads: Heads) {
        let tokens = heads.tokens(values.len());
        let values = SharedSlice::new(values);
        self.run(
            compute,
            tokens,
            heads,
            |start| {
                // SAFETY: every head of every token belongs to one unit.
                unsafe { values.range_mut(start, heads.width) }
            },
            |_, _, _| {},
        );
    }

    /// Rotates heads at `from` in `x` into heads at `to` in `out`; the rest of each head is copied.
    ///
    /// # Panics
    /// As [`Rotation::apply`], or if the two do not have equally many heads of equal width.
    pub fn apply_into(&self, compute: &Compute, (x, from): (&[f32], Heads), (out, to): (&mut [f32], Heads)) {
        assert!(from.count == to.count && from.width == to.width, "rope: heads in {from:?}, out {to:?}");
        let tokens = from.tokens(x.len());
        assert_eq!(tokens, to.tokens(out.len()), "rope: as many tokens out as in");
        let out = SharedSlice::new(out);
        self.run(
            compute,
            tokens,
            to,
            |start| {
                // SAFETY: every head of every token belongs to one unit.
                unsafe { out.range_mut(start, to.width) }
            },
            |token, head, out| {
                out.copy_from_slice(&x[token * from.token_stride + head * from.head_stride..][..from.width]);
            },
        );
    }

    /// Calls `fill(token, head, values)` and rotates what it left, for every head.
    fn run<'v>(
        &self,
        compute: &Compute,
        tokens: usize,
        heads: Heads,
        at: impl Fn(usize) -> &'v mut [f32] + Sync,
        fill: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        let Table { width, pairing, .. } = *self.table;
        assert!(
            self.first + width <= heads.width,
            "rope: {width} numbers from {} on of {}",
            self.first,
            heads.width
        );
        assert!(heads.head_stride >= heads.width || heads.count <= 1, "rope: heads overlap");
        assert!(heads.token_stride >= heads.count.max(1).strict_sub(1) * heads.head_stride + heads.width);
        if let Positions::Given(positions) = self.positions {
            assert_eq!(positions.len(), tokens, "rope: one position per token");
        }
        let each = super::rows_per_unit(heads.count * heads.width);
        let sign = if self.backward { -1.0 } else { 1.0 };
        compute.pool.run(tokens.div_ceil(each), |unit, _| {
            for token in unit * each..tokens.min((unit + 1) * each) {
                let position = self.positions.of(token) * width;
                let (own, partner) =
                    (&self.table.own[position..][..width], &self.table.partner[position..][..width]);
                for head in 0..heads.count {
                    let values = at(token * heads.token_stride + head * heads.head_stride);
                    fill(token, head, values);
                    let values = &mut values[self.first..][..width];
                    match pairing {
                        Pairing::Adjacent => turn_adjacent(compute.isa, values, own, partner, sign),
                        Pairing::Halves => turn_halves(compute.isa, values, own, partner, sign),
                    }
                }
            }
        });
    }
}

per_isa! {
    fn turn_adjacent(values: &mut [f32], own: &[f32], partner: &[f32], sign: f32) {
        const LANES: usize = 8;
        let (chunks, rest) = values.as_chunks_mut::<LANES>();
        let ((own, own_rest), (partner, partner_rest)) = (own.as_chunks::<LANES>(), partner.as_chunks::<LANES>());
        for (values, (own, partner)) in chunks.iter_mut().zip(own.iter().zip(partner)) {
            let [a, b, c, d, e, f, g, h] = *values;
            let swapped = [b, a, d, c, f, e, h, g];
            for i in 0..LANES {
                values[i] = values[i] * own[i] + swapped[i] * (sign * partner[i]);
            }
        }
        for (i, pair) in rest.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let [a, b] = *pair;
            *pair = [
                a * own_rest[2 * i] + b * (sign * partner_rest[2 * i]),
                b * own_rest[2 * i + 1] + a * (sign * partner_rest[2 * i + 1]),
            ];
        }
    }
}

per_isa! {
    fn turn_halves(values: &mut [f32], own: &[f32], partner: &[f32], sign: f32) {
        let half = values.len() / 2;
        let (low, high) = values.split_at_mut(half);
        for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(own.iter().zip(&partner[half..])) {
            let (a, b, sin) = (*low, *high, sign * sin);
            (*low, *high) = (a * cos - b * sin, b * cos + a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, noise, on_every_isa};
    use super::*;

    /// Pair `i` by pair `i`, in f64.
    fn reference(
        values: &[f32],
        heads: Heads,
        rotation: Rotation<'_>,
        frequencies: &[f64],
        scale: f64,
    ) -> Vec<f64> {
        let half = frequencies.len();
        let mut out: Vec<f64> = values.iter().copied().map(f64::from).collect();
        for token in 0..heads.tokens(values.len()) {
            for head in 0..heads.count {
                let at = token * heads.token_stride + head * heads.head_stride + rotation.first;
                for (pair, frequency) in frequencies.iter().enumerate() {
                    let [i, j] = match rotation.table.pairing {
                        Pairing::Adjacent => [at + 2 * pair, at + 2 * pair + 1],
                        Pairing::Halves => [at + pair, at + half + pair],
                    };
                    let angle = rotation.positions.of(token) as f64 * frequency;
                    let sin = if rotation.backward { -angle.sin() } else { angle.sin() };
                    let (a, b) = (out[i], out[j]);
                    (out[i], out[j]) =
                        ((a * angle.cos() - b * sin) * scale, (b * angle.cos() + a * sin) * scale);
                }
            }
        }
        out
    }

    #[test]
    fn heads_turn_and_turn_back() {
        for (half, scale) in [(1, 1.0), (3, 0.5), (4, 1.0), (11, 2.0), (16, 1.0)] {
            let frequencies: Vec<f64> = (0..half).map(|i| f64::from(0.5f32.powi(i))).collect();
            for pairing in [Pairing::Adjacent, Pairing::Halves] {
                let table = Table::new(&frequencies, scale, 9, pairing);
                let width = 2 * half as usize;
                let heads = Heads {
                    count: 3,
                    width: width + 5,
                    token_stride: 3 * (width + 6) + 1,
                    head_stride: width + 6,
                };
                let x = noise(7 * heads.token_stride, 1);
                let given = [8, 0, 3, 3, 1, 7, 2];
                for positions in [Positions::Sequences(4), Positions::Given(&given)] {
                    let forward = Rotation { table: &table, positions, first: 2, backward: false };
                    for rotation in [forward, forward.backward()] {
                        let expected = reference(&x, heads, rotation, &frequencies, scale);
                        on_every_isa(
                            |compute| {
                                let mut values = x.clone();
                                rotation.apply(compute, &mut values, heads);
                                vec![values]
                            },
                            |isa, got| {
                                assert_close(&format!("{isa} {half} {pairing:?}"), &got[0], &expected, 1e-6)
                            },
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn out_of_place_copies_what_does_not_turn() {
        let table = Table::new(&[1.0, 0.3], 1.0, 5, Pairing::Adjacent);
        let rotation =
            Rotation { table: &table, positions: Positions::Sequences(5), first: 3, backward: false };
        let compute = Compute::with_isa(crate::Isa::best(), 2);
        let from = Heads { count: 2, width: 7, token_stride: 20, head_stride: 9 };
        let x = noise(5 * 20, 3);
        let mut out = vec![0.0; 5 * 14];
        rotation.apply_into(&compute, (&x, from), (&mut out, Heads::dense(2, 7)));
        let mut expected = x.clone();
        rotation.apply(&compute, &mut expected, from);
        for (i, out) in out.chunks(7).enumerate() {
            assert_eq!(*out, expected[i / 2 * 20 + i % 2 * 9..][..7]);
        }
    }
}
