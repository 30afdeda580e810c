//! A row as a sequence of blocks: what is the same for every format.

use half::f16;

use super::search::range;

/// One format: blocks of `LEN` weights in `BYTES` bytes.
pub(super) trait Layout<const LEN: usize, const BYTES: usize> {
    /// Larger magnitudes are brought down to this before encoding. Formats with an f16 scale reach at most
    /// `65504·128·32`, below the default; with it no sum of an encoder overflows.
    const LARGEST: f32 = (1u32 << 30) as f32;

    /// The exact meaning of a block.
    fn decode(block: &[u8; BYTES], out: &mut [f32; LEN]);

    /// The encoder; it writes every byte of `out`.
    fn encode(block: &Weights<LEN>, out: &mut [u8; BYTES]);

    /// Whether the block's scale (and minimum) are numbers.
    fn is_finite(block: &[u8; BYTES]) -> bool;
}

/// The weights of one block on their way into codes.
pub(super) struct Weights<const LEN: usize> {
    /// Finite, at most [`Layout::LARGEST`]; zeroes after the end of a ragged row.
    pub(super) x: [f32; LEN],
    /// How many there are.
    given: usize,
    /// At least 0; what is not given counts as 1.
    importance: Option<[f32; LEN]>,
}

impl<const LEN: usize> Weights<LEN> {
    #[inline(always)]
    fn new(values: &[f32], importance: Option<&[f32]>, largest: f32) -> Self {
        let mut x = [0.0; LEN];
        for (x, &value) in x.iter_mut().zip(values) {
            *x = if value.is_nan() { 0.0 } else { value.clamp(-largest, largest) };
        }
        let importance = importance.map(|given| {
            let mut known = [0.0; LEN];
            for (known, &given) in known.iter_mut().zip(given) {
                let positive = if given > 0.0 { given } else { 0.0 };
                *known = if positive < f32::MAX { positive } else { f32::MAX };
            }
            known
        });
        Self { x, given: values.len(), importance }
    }

    /// How much the squared error of each weight counts.
    #[inline(always)]
    pub(super) fn error_weights(&self) -> [f32; LEN] {
        let mean_square = 2.0 * sum_of_squares(&self.x) / LEN as f32;
        let mut w = self.x;
        for w in &mut w {
            *w = (mean_square + *w * *w).sqrt();
        }
        // What fills up a ragged block is never read: its error is free.
        w[self.given..].fill(0.0);
        let Some(importance) = &self.importance else { return w };
        let (_, most) = range(importance);
        if most > 0.0 {
            for (w, importance) in w.iter_mut().zip(importance) {
                *w *= importance / most;
            }
        }
        w
    }
}

/// In sixteen sums that are then added up in halves.
#[inline(always)]
fn sum_of_squares(values: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    for chunk in values.as_chunks::<16>().0 {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value * value;
        }
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
    }
    sums[0]
}

/// Writes the code of each weight.
#[inline(always)]
pub(super) fn codes_of(x: &[f32], codes: &mut [u8], code: impl Fn(f32) -> u8) {
    for (out, &x) in codes.iter_mut().zip(x) {
        *out = code(x);
    }
}

#[inline(always)]
pub(super) fn decode_row<F: Layout<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
    blocks: &[u8],
    out: &mut [f32],
) {
    let (blocks, _) = blocks.as_chunks::<BYTES>();
    let (whole, ragged) = out.as_chunks_mut::<LEN>();
    for (block, out) in blocks.iter().zip(whole.iter_mut()) {
        F::decode(block, out);
    }
    if let Some(block) = blocks.get(whole.len()) {
        let mut last = [0.0; LEN];
        F::decode(block, &mut last);
        ragged.copy_from_slice(&last[..ragged.len()]);
    }
}

#[inline(always)]
pub(super) fn encode_row<F: Layout<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    for (index, out) in out.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
        let first = index * LEN;
        let last = (first + LEN).min(values.len());
        let importance = importance.map(|given| &given[first..last]);
        F::encode(&Weights::new(&values[first..last], importance, F::LARGEST), out);
    }
}

pub(super) fn first_bad_block<F: Layout<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
    blocks: &[u8],
) -> Option<usize> {
    let (whole, cut) = blocks.as_chunks::<BYTES>();
    let bad = whole.iter().position(|block| !F::is_finite(block));
    bad.or_else(|| (!cut.is_empty()).then_some(whole.len()))
}

/// Reads the f16 at `at`.
#[inline(always)]
pub(super) fn f16_at(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

/// Writes `value` as f16 at `at`, saturating, and returns what was written.
#[inline(always)]
pub(super) fn put_f16(block: &mut [u8], at: usize, value: f32) -> f32 {
    let largest = f16::MAX.to_f32();
    let stored = f16::from_f32(value.clamp(-largest, largest));
    block[at..at + 2].copy_from_slice(&stored.to_le_bytes());
    stored.to_f32()
}

/// [`put_f16`] for a scale of scales: where f16 is coarse it is rounded away from zero, so that the largest
/// integer times it still reaches the largest scale.
#[inline(always)]
pub(super) fn put_f16_reaching(block: &mut [u8], at: usize, value: f32) -> f32 {
    let stored = put_f16(block, at, value);
    if stored.abs() >= value.abs().min(f16::MIN_POSITIVE.to_f32()) {
        return stored;
    }
    let next = f16::from_bits(f16_at(block, at).to_bits() + 1);
    put_f16(block, at, next.to_f32())
}

/// The two codes of each byte: the low halves first, as llama.cpp lays out 32 weights in 16 bytes.
#[inline(always)]
pub(super) fn unpack_nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

/// The reverse of [`unpack_nibbles`]; codes above 15 lose their high bits.
#[inline(always)]
pub(super) fn pack_nibbles(codes: &[u8], bytes: &mut [u8]) {
    let (low, high) = codes.split_at(bytes.len());
    for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
        *byte = (low & 15) | (high << 4);
    }
}

/// The fifth bits of 32 codes, one per bit of a little-endian word, in the order of the weights.
#[inline(always)]
pub(super) fn unpack_fifth_bits(bytes: &[u8], codes: &mut [u8; 32]) {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (position, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> position) as u8 & 1) << 4;
    }
}

/// The reverse of [`unpack_fifth_bits`].
#[inline(always)]
pub(super) fn pack_fifth_bits(codes: &[u8; 32], bytes: &mut [u8]) {
    let mut bits = 0;
    for (position, &code) in codes.iter().enumerate() {
        bits |= u32::from(code >> 4 & 1) << position;
    }
    bytes[..4].copy_from_slice(&bits.to_le_bytes());
}
