//! The two loops on every ISA, and both forms of attention against the plain equation in f64.

use proptest::prelude::*;

use super::*;
use crate::Compute;
use crate::gemm::Rows;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

#[track_caller]
fn close(actual: &[f32], expected: &[f32], tolerance: f32, case: &str) {
    assert_eq!(actual.len(), expected.len());
    for (index, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance, "{case}: element {index} is {a}, not {e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn loops_match_the_scalar_ones(rows in 1usize..11, keys in 1usize..70, dim in 1usize..150, gap in 0usize..5) {
        let (a, b) = (numbers(rows * (dim + gap), 1), numbers(keys * (dim + gap), 2));
        let (a, b) = (Matrix::new(&a, rows, dim + gap), Matrix::new(&b, keys, dim + gap));
        let p = numbers(rows * (keys + gap), 3);
        let p = Matrix::new(&p, rows, keys + gap);
        let run = |isa| {
            let (mut s, mut o) = (vec![0.5; rows * keys], vec![0.25; rows * dim]);
            scores(isa, a, b, dim, &mut s, false);
            scores(isa, a, b, dim, &mut s, true);
            mix(isa, p, b, dim, &mut o);
            (s, o)
        };
        let expected = run(Isa::Scalar);
        for isa in Isa::available() {
            let actual = run(isa);
            close(&actual.0, &expected.0, 2e-4, &format!("{isa} scores {rows}×{keys}×{dim}"));
            close(&actual.1, &expected.1, 1e-4, &format!("{isa} mix {rows}×{keys}×{dim}"));
        }
    }
}

struct Case {
    heads: usize,
    nope: usize,
    rope: usize,
    value: usize,
    latent: usize,
    tokens: usize,
}

/// One layer's attention over random latents, with random `W^UK`, `W^UV`, in f64.
struct Layer {
    case: Case,
    scale: f32,
    /// `[tokens, heads, nope + rope]`
    q: Vec<f32>,
    /// `[tokens, latent + rope]`
    latents: Vec<f32>,
    /// `[heads, nope, latent]` and `[heads, value, latent]`
    w_uk: Vec<f32>,
    w_uv: Vec<f32>,
}

impl Layer {
    fn new(case: Case) -> Self {
        let Case { heads, nope, rope, value, latent, tokens } = case;
        Self {
            scale: 1.0 / ((nope + rope) as f32).sqrt(),
            q: numbers(tokens * heads * (nope + rope), 11),
            latents: numbers(tokens * (latent + rope), 12),
            w_uk: numbers(heads * nope * latent, 13),
            w_uv: numbers(heads * value * latent, 14),
            case,
        }
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    /// `[tokens, heads, value]`
    fn expected(&self) -> Vec<f32> {
        let Case { heads, nope, rope, value, latent, tokens } = self.case;
        let mut out = vec![0.0; tokens * heads * value];
        for t in 0..tokens {
            for h in 0..heads {
                let q = &self.q[(t * heads + h) * (nope + rope)..][..nope + rope];
                let row = |s: usize| self.latents[s * (latent + rope)..][..latent + rope].split_at(latent);
                let scores: Vec<f64> = (0..=t)
                    .map(|s| {
                        let (c, k_rope) = row(s);
                        let nope_part: f64 = (0..nope)
                            .map(|d| {
                                f64::from(q[d])
                                    * Self::dot(&self.w_uk[(h * nope + d) * latent..][..latent], c)
                            })
                            .sum();
                        (nope_part + Self::dot(&q[nope..], k_rope)) * f64::from(self.scale)
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                for v in 0..value {
                    let w = &self.w_uv[(h * value + v) * latent..][..latent];
                    let mixed: f64 =
                        (0..=t).map(|s| (scores[s] - max).exp() / sum * Self::dot(w, row(s).0)).sum();
                    out[(t * heads + h) * value + v] = mixed as f32;
                }
            }
        }
        out
    }

    fn cache(&self, format: CacheFormat, table: &[u32]) -> LatentRows {
        let Case { rope, latent, tokens, .. } = self.case;
        let blocks = table.iter().max().map_or(0, |&last| last as usize + 1);
        let mut cache = LatentRows::new(format, blocks, latent + rope).expect("a few rows");
        for token in 0..tokens {
            cache.write(table, token, &self.latents[token * (latent + rope)..][..latent + rope]);
        }
        cache
    }

    /// Through the latents: absorbed queries in, `W^UV` behind.
    fn absorbed(&self, compute: &Compute, queries: std::ops::Range<usize>) -> Vec<f32> {
        let Case { heads, nope, rope, value, latent, tokens } = self.case;
        let width = latent + rope;
        // Blocks in an order that is not the tokens'.
        let table: Vec<u32> = (0..tokens.div_ceil(BLOCK_TOKENS) as u32).rev().collect();
        let cache = self.cache(CacheFormat::F32, &table);
        let mut q = vec![0.0; queries.len() * heads * width];
        for (row, out) in q.chunks_exact_mut(width).enumerate() {
            let (t, h) = (queries.start + row / heads, row % heads);
            let from = &self.q[(t * heads + h) * (nope + rope)..][..nope + rope];
            for (c, out) in out[..latent].iter_mut().enumerate() {
                *out = (0..nope).map(|d| from[d] * self.w_uk[(h * nope + d) * latent + c]).sum();
            }
            out[latent..].copy_from_slice(&from[nope..]);
        }
        let seen: Vec<absorbed::Query<'_>> = queries
            .clone()
            .map(|t| absorbed::Query { cache: cache.sequence(&table), visible: t + 1 })
            .collect();
        let shape = absorbed::Shape { heads, latent, rope, scale: self.scale };
        let mut mixed = vec![0.0; queries.len() * heads * latent];
        absorbed::attend(compute, shape, &seen, &q, &mut Default::default(), &mut mixed);
        let heads_of = |row: usize| row % heads;
        mixed
            .chunks_exact(latent)
            .enumerate()
            .flat_map(|(row, mixed)| {
                let w = &self.w_uv[heads_of(row) * value * latent..][..value * latent];
                w.chunks_exact(latent).map(|w| Self::dot(w, mixed) as f32).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Through expanded keys and values, in chunks of `chunk` keys.
    fn expanded(&self, compute: &Compute, first: usize, chunk: usize) -> Vec<f32> {
        let Case { heads, nope, rope, value, latent, tokens } = self.case;
        let shape = expanded::Shape { heads, nope, rope, value, scale: self.scale };
        let queries = tokens - first;
        let q = Rows::dense(&self.q[first * heads * (nope + rope)..], heads * (nope + rope));
        let mut state = expanded::State::default();
        state.reset(shape, queries);
        for start in (0..tokens).step_by(chunk) {
            let end = tokens.min(start + chunk);
            let (mut kv, mut k_rope) = (Vec::new(), Vec::new());
            for s in start..end {
                let (c, rotary) = self.latents[s * (latent + rope)..][..latent + rope].split_at(latent);
                for h in 0..heads {
                    let keys = self.w_uk[h * nope * latent..][..nope * latent].chunks_exact(latent);
                    let values = self.w_uv[h * value * latent..][..value * latent].chunks_exact(latent);
                    kv.extend(keys.chain(values).map(|w| Self::dot(w, c) as f32));
                }
                k_rope.extend_from_slice(rotary);
            }
            state.attend(
                compute,
                shape,
                q,
                first,
                expanded::Keys { first: start, expanded: &kv, rope: &k_rope },
            );
        }
        let mut out = vec![0.0; queries * heads * value];
        state.finish(compute, shape, &mut out);
        out
    }
}

#[track_caller]
fn check(case: Case) {
    let layer = Layer::new(case);
    let Case { heads, value, tokens, .. } = layer.case;
    let expected = layer.expected();
    for isa in Isa::available() {
        let compute = Compute::with_isa(isa, 2);
        for (first, chunk) in [(0, tokens), (0, 48), (tokens / 2, 100), (tokens - 1, 33)] {
            let actual = layer.expanded(&compute, first, chunk);
            close(
                &actual,
                &expected[first * heads * value..],
                2e-5,
                &format!("{isa} expanded {first} {chunk}"),
            );
        }
        for queries in [0..tokens, tokens - 1..tokens, tokens / 2..tokens / 2 + 1] {
            let actual = layer.absorbed(&compute, queries.clone());
            let expected = &expected[queries.start * heads * value..queries.end * heads * value];
            close(&actual, expected, 2e-5, &format!("{isa} absorbed {queries:?}"));
        }
    }
}

#[test]
fn both_forms_compute_the_equation() {
    check(Case { heads: 1, nope: 1, rope: 2, value: 1, latent: 1, tokens: 1 });
    check(Case { heads: 3, nope: 8, rope: 4, value: 12, latent: 20, tokens: 37 });
    check(Case { heads: 18, nope: 16, rope: 8, value: 5, latent: 33, tokens: 70 });
}

#[test]
fn a_long_context_is_cut_and_merged() {
    check(Case { heads: 2, nope: 4, rope: 2, value: 3, latent: 7, tokens: 1100 });
}

#[test]
fn bf16_rows_are_rounded_once() {
    let layer = Layer::new(Case { heads: 1, nope: 1, rope: 2, value: 1, latent: 30, tokens: 70 });
    let cache = layer.cache(CacheFormat::Bf16, &[1, 0]);
    for isa in Isa::available() {
        let mut row = vec![0.0; 5 * 10];
        cache.sequence(&[1, 0]).read(&Compute::with_isa(isa, 2), 62..67, 20..30, &mut row);
        for (index, value) in row.iter().enumerate() {
            let exact = layer.latents[(62 + index / 10) * 32 + 20 + index % 10];
            assert_eq!(*value, fathom_numeric::round::to_bf16_precision(exact), "{isa}");
        }
    }
}
