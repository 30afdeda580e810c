//! What is in a synthetic tensor.
//!
//! Element `i` is word `i` of a ChaCha8 stream: the key is the seed as it stands, the stream's
//! number is FNV-1a of the tensor's name. So a value depends on seed, name and place alone, and
//! any part of a tensor can be made by any thread. The word, read as a signed number, is scaled
//! to a uniform distribution of the wanted mean and standard deviation.
//!
//! Deviations keep activations near 1 in every block, gates away from both indifference and
//! certainty, and the largest logit near 9: a matrix `1/√cols`, the head `2/√cols`, gates
//! `1.5/√cols`, embeddings 1, norms 1 ± 0.1.

use std::collections::HashMap;

use fathom_checkpoint::names::{self, Layer};
use fathom_checkpoint::{Dtype, TensorPlan};
use fathom_numeric::fp8::{self, F8E4M3};
use fathom_numeric::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::Config;
use crate::manifest::TensorSpec;

/// What a tensor is for, as far as its distribution goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `embed_tokens`, the main one or a copy.
    Embedding,
    /// `lm_head`, the main one or a copy; an embedding that is also the head.
    Head,
    /// A gate.
    Router,
    /// A bias, `e_score_correction_bias` too.
    Bias,
    /// An RMSNorm.
    Norm,
    /// Any other matrix.
    Projection,
}

/// From tensors to kinds.
pub(super) struct Kinds(HashMap<String, Kind>);

impl Kinds {
    pub(super) fn new(config: &Config) -> Self {
        let mut named = HashMap::from([
            (names::EMBED_TOKENS.to_owned(), Kind::Embedding),
            (names::LM_HEAD.to_owned(), Kind::Head),
        ]);
        for layer in (0..config.layers_with_mtp()).map(Layer) {
            named.insert(layer.embed_tokens(), Kind::Embedding);
            named.insert(layer.shared_head_head(), Kind::Head);
            named.insert(layer.router(), Kind::Router);
        }
        Self(named)
    }

    pub(super) fn of(&self, spec: &TensorSpec) -> Kind {
        match self.0.get(&spec.name) {
            Some(&kind) => kind,
            None if spec.shape.len() == 2 => Kind::Projection,
            None if spec.name.ends_with(".weight") => Kind::Norm,
            None => Kind::Bias,
        }
    }
}

/// The number of the stream that a tensor of this name draws from: FNV-1a, 64 bits.
pub(super) fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// One tensor to write.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) spec: TensorSpec,
    pub(super) kind: Kind,
    pub(super) dtype: Dtype,
    /// FP8 only: rows and columns of a scale block.
    pub(super) block: Option<[usize; 2]>,
    /// FP8 only: scales are powers of two.
    pub(super) power_of_two: bool,
    pub(super) seed: u64,
    pub(super) stream: u64,
}

impl Values {
    /// Rows and columns; a vector is one row.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self.spec.shape[..] {
            [rows, cols] => [rows, cols],
            _ => [1, self.spec.elements() as usize],
        }
    }

    pub(super) fn elements(&self) -> u64 {
        self.spec.elements()
    }

    /// The tensor as it is stored, then its block scales.
    pub(super) fn plans(&self) -> impl Iterator<Item = TensorPlan> {
        let [rows, cols] = self.shape();
        let weight = TensorPlan::new(self.spec.name.clone(), self.dtype, self.spec.shape.clone());
        let scales = self.block.map(|[block_rows, block_cols]| {
            let shape = [rows.div_ceil(block_rows), cols.div_ceil(block_cols)];
            TensorPlan::new(names::scale_name(&self.spec.name), Dtype::F32, shape)
        });
        std::iter::once(weight).chain(scales)
    }

    fn mean_and_deviation(&self) -> (f32, f32) {
        let per_column = |scale: f32| (0.0, scale / (self.shape()[1] as f32).sqrt());
        match self.kind {
            Kind::Embedding => (0.0, 1.0),
            Kind::Head => per_column(2.0),
            Kind::Router => per_column(1.5),
            Kind::Bias => (0.0, 0.1),
            Kind::Norm => (1.0, 0.1),
            Kind::Projection => per_column(1.0),
        }
    }

    /// The elements from `first` on.
    pub(super) fn fill(&self, first: u64, out: &mut [f32]) {
        const WORDS: usize = 256;
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(self.stream);
        rng.set_word_pos(u128::from(first));
        let (mean, deviation) = self.mean_and_deviation();
        // Uniform on ±√3 deviations; 2^31 is what a word goes up to.
        let scale = deviation * 3f32.sqrt() / (1u64 << 31) as f32;
        let mut bytes = [0; WORDS * 4];
        for out in out.chunks_mut(WORDS) {
            let bytes = &mut bytes[..out.len() * 4];
            rng.fill_bytes(bytes);
            for (out, word) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = mean + scale * i32::from_le_bytes(*word) as f32;
            }
        }
    }
}

/// `values` in the bytes of `dtype`: F32, F16 or BF16.
pub(super) fn encode(values: &[f32], dtype: Dtype, out: &mut Vec<u8>) {
    fn each<const N: usize>(values: &[f32], out: &mut Vec<u8>, encode: impl Fn(f32) -> [u8; N]) {
        out.resize(values.len() * N, 0);
        for (out, &value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
            *out = encode(value);
        }
    }
    match dtype {
        Dtype::F16 => each(values, out, |value| f16::from_f32(value).to_le_bytes()),
        Dtype::BF16 => each(values, out, |value| bf16::from_f32(value).to_le_bytes()),
        _ => each(values, out, f32::to_le_bytes),
    }
}

/// One row of blocks of an FP8 matrix with `cols` columns: codes to `out`, and the scales `amax / 448`
/// (rounded up to a power of two if `power_of_two`) of its blocks, `block_cols` wide.
/// [`fp8::quantize_blocks`] defines what this streams.
pub(super) fn quantize_band(
    values: &[f32],
    cols: usize,
    block_cols: usize,
    power_of_two: bool,
    out: &mut Vec<u8>,
) -> Vec<f32> {
    let mut scales = vec![0.0f32; cols.div_ceil(block_cols)];
    for row in values.chunks_exact(cols) {
        for (amax, block) in scales.iter_mut().zip(row.chunks(block_cols)) {
            *amax = block.iter().fold(*amax, |amax, value| amax.max(value.abs()));
        }
    }
    for scale in &mut scales {
        *scale = match *scale / fp8::MAX {
            0.0 => 1.0,
            exact if power_of_two => exact.log2().ceil().exp2(),
            exact => exact,
        };
    }
    out.clear();
    out.reserve(values.len());
    for row in values.chunks_exact(cols) {
        for (scale, block) in scales.iter().zip(row.chunks(block_cols)) {
            out.extend(block.iter().map(|value| F8E4M3::from_f32(value / scale).0));
        }
    }
    scales
}
