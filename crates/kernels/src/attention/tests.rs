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
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn products_match_the_scalar_ones(
        vectors in 1usize..9, count in 1usize..65, first in 0usize..9, len in 1usize..=PIECE, gap in 0usize..3,
    ) {
        let (first, gap, whole) = (16 * first, 16 * gap, len.next_multiple_of(LANES));
        let (dim, cols) = (first + len + gap, first + whole + gap);
        let queries = numbers(vectors * dim * LANES, 1);
        let (mut keys, mut values) = (numbers(STAGED, 2), numbers(STAGED, 3));
        // What is beyond the keys must not matter.
        keys[count * STRIDE..].fill(f32::NAN);
        values[count * STRIDE..].fill(f32::NAN);
        let (weights, keep) = (numbers(vectors * KEYS * LANES, 4), numbers(vectors * LANES, 5));
        let run = |isa| {
            let (mut s, mut o) = (vec![0.5; vectors * KEYS * LANES], vec![0.25; vectors * LANES * cols]);
            let piece = first..first + len;
            let keys = &keys;
            scores(isa, &Scores { queries: &queries, apart: dim * LANES, vectors, piece, keys, count, ahead: Ahead::NOTHING }, &mut s);
            let s: Vec<f32> = s.chunks_exact(KEYS * LANES).flat_map(|s| s[..count * LANES].to_vec()).collect();
            let (piece, weights) = (first..first + whole, &weights);
            mix(isa, &Mix { weights, vectors, values: &values, count, cols, piece, keep: &keep }, &mut o);
            (s, o)
        };
        let expected = run(Isa::Scalar);
        for isa in Isa::available() {
            let actual = run(isa);
            close(&actual.0, &expected.0, 1e-4, &format!("{isa} scores {vectors}×{count}×{first}+{len}"));
            close(&actual.1, &expected.1, 1e-4, &format!("{isa} mix {vectors}×{count}×{first}+{whole}"));
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
        let mut cache = LatentRows::new(format, blocks, [latent, rope]).expect("a few rows");
        for token in 0..tokens {
            cache.write(table, token, &self.latents[token * (latent + rope)..][..latent + rope]);
        }
        cache
    }

    /// Through the latents: absorbed queries in, `W^UV` behind.
    fn absorbed(&self, compute: &Compute, format: CacheFormat, queries: std::ops::Range<usize>) -> Vec<f32> {
        let Case { heads, nope, rope, value, latent, tokens } = self.case;
        // Blocks in an order that is not the tokens'.
        let table: Vec<u32> = (0..tokens.div_ceil(BLOCK_TOKENS) as u32).rev().collect();
        let cache = self.cache(format, &table);
        let query = nope + rope;
        let mut q = vec![0.0; queries.len() * heads * latent];
        for (row, out) in q.chunks_exact_mut(latent).enumerate() {
            let (t, h) = (queries.start + row / heads, row % heads);
            let from = &self.q[(t * heads + h) * query..][..nope];
            for (c, out) in out.iter_mut().enumerate() {
                *out = (0..nope).map(|d| from[d] * self.w_uk[(h * nope + d) * latent + c]).sum();
            }
        }
        let seen = absorbed::Queries {
            count: queries.len(),
            latent: &q,
            query: |i| {
                let (t, cache) = (queries.start + i, cache.sequence(&table));
                absorbed::Query { cache, visible: t + 1, rotary: &self.q[t * heads * query + nope..] }
            },
        };
        let shape = absorbed::Shape { heads, latent, rope, rotary_stride: query, scale: self.scale };
        let mut mixed = vec![0.0; queries.len() * heads * latent];
        absorbed::attend(compute, shape, &seen, &mut Default::default(), &mut mixed);
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
    fn expanded(&self, compute: &Compute, exact: bool, first: usize, chunk: usize) -> Vec<f32> {
        let Case { heads, nope, rope, value, latent, tokens } = self.case;
        let shape = expanded::Shape { heads, nope, rope, value, scale: self.scale, exact };
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
            let actual = layer.expanded(&compute, true, first, chunk);
            close(
                &actual,
                &expected[first * heads * value..],
                2e-5,
                &format!("{isa} expanded {first} {chunk}"),
            );
        }
        for queries in [0..tokens, tokens - 1..tokens, tokens / 2..tokens / 2 + 1] {
            let actual = layer.absorbed(&compute, CacheFormat::F32, queries.clone());
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

/// Queries beside each other share readings of the cache, and which of them are cut does not matter: each is
/// what it is alone.
#[test]
fn a_query_is_the_same_alone_and_among_others() {
    // The second and the last have whole steps of bf16, the last the stride of the released models.
    for (heads, latent, rope, tokens) in
        [(3, 20, 6, 150), (16, 64, 32, 700), (5, 160, 6, 2300), (17, 512, 64, 330)]
    {
        let layer = Layer::new(Case { heads, nope: 4, rope, value: 2, latent, tokens });
        let each = heads * layer.case.value;
        for isa in Isa::available() {
            for format in [CacheFormat::F32, CacheFormat::Bf16, CacheFormat::Int8] {
                let attend =
                    |queries, threads| layer.absorbed(&Compute::with_isa(isa, threads), format, queries);
                let first = tokens - 70;
                let all = attend(first..tokens, 2);
                for token in [first, first + 1, tokens - 33, tokens - 1] {
                    let alone = attend(token..token + 1, 3);
                    let among = &all[(token - first) * each..][..each];
                    assert_eq!(alone, among, "{isa} {format:?} {heads} heads: token {token} of {tokens}");
                }
            }
        }
    }
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

#[cfg(vector_kernels)]
mod bytes {
    use super::*;

    /// Scores, rounded weights and sums against integers counted one by one.
    #[track_caller]
    fn check(vectors: usize, count: usize, len: usize) {
        let groups = len.div_ceil(format::GROUP);
        let width = len.next_multiple_of(vnni::MIXED);
        let byte = |i: usize, seed: usize| (numbers(1, (i * 31 + seed) as u64)[0] * 127.0).round() as i8;
        let stored: Vec<i8> = (0..KEYS * width).map(|i| byte(i, 1)).collect();
        let mut values = vec![0; KEYS / 4 * width];
        vnni::stage(bytemuck::cast_slice(&stored), width, 0..width, &mut values);
        let quads = len.div_ceil(4);
        let query = |row: usize, d: usize| if d < len { byte(row * 1000 + d, 2) } else { 0 };
        let apart = (quads + 1) * LANES;
        let mut queries = vec![0u32; vectors * apart];
        for row in 0..vectors * LANES {
            for quad in 0..quads {
                let bytes = std::array::from_fn(|i| query(row, 4 * quad + i).wrapping_add(-128) as u8);
                queries[row / LANES * apart + quad * LANES + row % LANES] = u32::from_le_bytes(bytes);
            }
        }
        let (query_scales, key_scales) = (numbers(vectors * apart, 3), numbers(KEYS * groups, 4));
        // Queries are zero beyond their numbers, of which the sums hold whole quads.
        let of_group = |group: usize, end: usize| group * format::GROUP..end.min((group + 1) * format::GROUP);
        let sum = |key: usize, group: usize| {
            of_group(group, 4 * quads).map(|d| i32::from(stored[key * width + d])).sum::<i32>()
        };
        let sums: Vec<i32> = (0..KEYS * groups).map(|i| -128 * sum(i / groups, i % groups)).collect();
        let mut out = vec![0.5; vectors * KEYS * LANES];
        let job = vnni::Scores {
            queries: &queries,
            query_scales: &query_scales,
            apart,
            vectors,
            quads,
            keys: bytemuck::cast_slice(&stored),
            row_bytes: width,
            count,
            key_scales: &key_scales,
            key_sums: &sums,
            ahead: &[],
        };
        vnni::scores(&job, &mut out);
        for row in 0..vectors * LANES {
            for key in 0..count {
                let dot = |group: usize| -> i32 {
                    let product = |d| i32::from(query(row, d)) * i32::from(stored[key * width + d]);
                    of_group(group, len).map(product).sum()
                };
                let scale = |group: usize| {
                    query_scales[row / LANES * apart + group * LANES + row % LANES]
                        * key_scales[key * groups + group]
                };
                let terms = (0..groups).map(|group| dot(group) as f32 * scale(group));
                let (actual, expected) =
                    (out[(row / LANES * KEYS + key) * LANES + row % LANES], 0.5 + terms.clone().sum::<f32>());
                let magnitude = 1.0 + terms.map(f32::abs).sum::<f32>();
                let case = format!("{vectors} {count} {len}: row {row}, key {key}");
                assert!((actual - expected).abs() < 1e-5 * magnitude, "{case}: {actual} {expected}");
            }
        }

        let positive: Vec<f32> = numbers(KEYS, 5).into_iter().map(f32::abs).collect();
        let weights: Vec<f32> = numbers(vectors * KEYS * LANES, 6).into_iter().map(f32::abs).collect();
        let (mut rounded, mut scales) = (vec![7; vectors * vnni::WEIGHTS], vec![f32::NAN; vectors * LANES]);
        for vector in 0..vectors {
            let (weights, _) = weights[vector * KEYS * LANES..].as_chunks::<LANES>();
            let out = &mut rounded[vector * vnni::WEIGHTS..][..vnni::WEIGHTS];
            let scales = &mut scales.as_chunks_mut::<LANES>().0[vector];
            vnni::weights(&weights[..count], &positive, 1, out, scales);
        }
        let keep = numbers(vectors * LANES, 8);
        let mut sums = vec![0.25; vectors * LANES * width];
        let mixed = vnni::Mix {
            weights: &rounded,
            weight_scales: &scales,
            vectors,
            values: &values,
            width,
            count,
            cols: width,
            first: 0,
            keep: &keep,
        };
        vnni::mix(&mixed, &mut sums);
        vnni::unmix(&mut sums);
        for (row, sums) in sums.chunks_exact(width).enumerate() {
            let weight = |key: usize| {
                let word = rounded[row / LANES * vnni::WEIGHTS + key / 4 * LANES + row % LANES];
                i32::from(word.to_le_bytes()[key % 4])
            };
            for key in 0..count {
                let exact = weights[(row / LANES * KEYS + key) * LANES + row % LANES] * positive[key];
                let step = scales[row];
                assert!(
                    (weight(key) as f32 * step - exact).abs() <= 0.501 * step,
                    "weight of row {row}, key {key}"
                );
            }
            for (col, actual) in sums.iter().enumerate() {
                let sum: i32 = (0..count).map(|key| weight(key) * i32::from(stored[key * width + col])).sum();
                let expected = 0.25 * keep[row] + sum as f32 * scales[row];
                assert!(
                    (actual - expected).abs() < 1e-4 * (1.0 + expected.abs()),
                    "row {row}, column {col}: {actual} {expected}"
                );
            }
        }
    }

    #[test]
    fn products_are_those_of_integers() {
        if !vnni::available(Isa::best()) {
            return;
        }
        for (vectors, count, len) in [
            (1, 64, 512),
            (1, 1, 1),
            (2, 17, 64),
            (3, 37, 100),
            (8, 63, 512),
            (5, 9, 7),
            (1, 49, 300),
            (2, 20, 130),
        ] {
            check(vectors, count, len);
        }
    }
}

/// Every cache format against the f32 cache: the bounds that `docs/kernels/attention.md` states.
#[test]
fn compressed_caches_stay_within_their_bounds() {
    for (heads, latent, rope, tokens) in [(16, 512, 64, 300), (5, 96, 16, 200), (33, 33, 8, 130)] {
        let layer = Layer::new(Case { heads, nope: 16, rope, value: 8, latent, tokens });
        for isa in Isa::available() {
            let compute = Compute::with_isa(isa, 2);
            let queries = tokens - 3..tokens;
            let exact = layer.absorbed(&compute, CacheFormat::F32, queries.clone());
            let norm = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            for (format, bound) in
                [(CacheFormat::Bf16, 0.005), (CacheFormat::Int8, 0.02), (CacheFormat::Fp8, 0.06)]
            {
                let actual = layer.absorbed(&compute, format, queries.clone());
                let difference: Vec<f32> = actual.iter().zip(&exact).map(|(a, e)| a - e).collect();
                let relative = norm(&difference) / norm(&exact);
                assert!(relative < bound, "{isa} {format} {heads}×{latent}: {relative} of the output");
                assert!(relative > 0.0, "{isa} {format}: nothing was rounded");
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let layer = Layer::new(Case { heads: 18, nope: 16, rope: 8, value: 5, latent: 130, tokens: 900 });
    for format in CacheFormat::ALL {
        let run = |threads| {
            let compute = Compute::with_isa(Isa::best(), threads);
            let mut all = layer.absorbed(&compute, format, 890..900);
            all.extend(layer.expanded(&compute, false, 600, 333));
            all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = run(1);
        for threads in [2, 3, 7] {
            assert_eq!(run(threads), one, "{format} on {threads} threads");
        }
    }
}

/// Both forms by products of bf16, on the tile unit (or its emulator) and in lanes: exact but for the rounding of
/// queries, keys and weights.
#[cfg(all(vector_kernels, target_os = "linux"))]
#[test]
fn products_of_bf16_compute_the_equation() {
    if crate::Isa::best() < crate::Isa::Avx512 {
        // What stands around the tiles is AVX-512 code, which nothing emulates.
        return;
    }
    crate::illegal::install();
    for isa in [Isa::Amx, Isa::Avx512].into_iter().filter(|&isa| halves::Unit::available(isa)) {
        check_halves(isa);
    }
}

#[cfg(all(vector_kernels, target_os = "linux"))]
fn check_halves(isa: Isa) {
    for (heads, nope, value, latent, rope, tokens) in [
        (16, 32, 32, 64, 32, 200),
        (5, 64, 96, 96, 32, 65),
        (33, 32, 64, 32, 64, 400),
        (1, 32, 32, 64, 64, 1),
        // Rows as far apart as those of the released models.
        (3, 128, 128, 512, 64, 70),
    ] {
        let layer = Layer::new(Case { heads, nope, rope, value, latent, tokens });
        let pool = crate::pool::ThreadPool::new(2).expect("a thread");
        let compute = Compute { isa, pool };
        let expected = layer.expected();
        let norm = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let check = |actual: Vec<f32>, expected: &[f32], case: &str| {
            assert_eq!(actual.len(), expected.len());
            let difference: Vec<f32> = actual.iter().zip(expected).map(|(a, e)| a - e).collect();
            let relative = norm(&difference) / norm(expected);
            assert!(relative < 0.01, "{isa} {case} {heads}×{latent}: {relative} of the output");
        };
        for first in [0, tokens / 2, tokens - 1] {
            let expected = &expected[first * heads * value..];
            check(layer.expanded(&compute, false, first, 150), expected, "expanded");
            check(layer.absorbed(&compute, CacheFormat::Bf16, first..tokens), expected, "absorbed");
        }
    }
}
