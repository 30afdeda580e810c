//! The sampler against [`crate::reference`], and the promises that no distribution shows.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::reference;

fn sampler(params: &SamplingParams, vocab_size: usize) -> Sampler {
    Sampler::new(params, vocab_size, &[]).unwrap()
}

fn seeded(seed: u64) -> SamplingParams {
    SamplingParams { seed: Some(seed), ..SamplingParams::default() }
}

/// `len` logits, roughly normal with standard deviation `spread`; seed 0 is the key of the generator.
fn noise(len: usize, spread: f32, seed: u64) -> Vec<f32> {
    let mut rng = rng_from(seed);
    let mut normal = || (0..12).map(|_| fraction(&mut rng)).sum::<f64>() - 6.0;
    (0..len).map(|_| normal() as f32 * spread).collect()
}

/// Compares candidates and probabilities after `answer` was generated from `prompt`.
fn compare(params: &SamplingParams, logits: &[f32], prompt: &[u32], answer: &[u32]) -> Result<(), String> {
    let mut sampler = Sampler::new(params, logits.len(), prompt).map_err(|err| err.to_string())?;
    for &token in answer {
        sampler.penalties.record(token);
    }
    let got = sampler.distribution(logits);
    let adjusted = reference::adjusted(params, logits, prompt, answer);
    let expected = reference::truncated(params, &adjusted);
    // Where e^x underflows in f32 (e^-87 = 1.64e-38), the probability is 0 for all purposes.
    let best = expected.ranked[0].1;
    let above = |least: f64| expected.ranked.iter().take_while(|&&(_, p)| p > least * best).count();
    let kept = above(1.7e-38).min(*expected.kept.start())..=above(1.6e-38).min(*expected.kept.end());
    if !kept.contains(&got.len()) {
        return Err(format!("{} candidates, expected {kept:?}", got.len()));
    }
    let mut beginning = expected.ranked[..got.len()].to_vec();
    let total: f64 = beginning.iter().map(|&(_, p)| p).sum();
    beginning.sort_by_key(|&(id, _)| id);
    for (&(id, p), &(expected_id, expected_p)) in got.iter().zip(&beginning) {
        let expected_p = expected_p / total;
        // x = (logit − best) / temperature is rounded to f32, which costs |x| · 2^-24 of the weight.
        if id != expected_id || (p - expected_p).abs() > 2e-5 * expected_p {
            return Err(format!("token {id}: {p}, expected token {expected_id}: {expected_p}"));
        }
    }
    Ok(())
}

fn any_params(vocab_size: usize) -> impl Strategy<Value = SamplingParams> {
    let top_k = prop::option::of(1..vocab_size + 5);
    let top_p = prop_oneof![Just(1.0f32), 0.001f32..1.0, 0.99f32..1.0];
    let min_p = prop_oneof![Just(0.0f32), 0.0f32..=1.0, 0.0f32..0.01];
    let penalty = || prop_oneof![Just(0.0f32), -2.0f32..=2.0];
    let repetition = prop_oneof![Just(1.0f32), 0.5f32..2.0];
    let bias = prop::collection::btree_map(0..vocab_size as u32, -100.0f32..=100.0, 0..4);
    (0.05f32..=2.0, top_k, top_p, min_p, (repetition, penalty(), penalty()), bias).prop_map(
        |(
            temperature,
            top_k,
            top_p,
            min_p,
            (repetition_penalty, frequency_penalty, presence_penalty),
            bias,
        )| {
            SamplingParams {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty,
                frequency_penalty,
                presence_penalty,
                logit_bias: bias.into_iter().collect(),
                ..SamplingParams::default()
            }
        },
    )
}

/// Logits with many ties, some impossible and some extreme.
fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let smooth = -15.0f32..15.0;
    let tied = (-6i8..6).prop_map(|x| f32::from(x) * 0.5);
    let odd = prop::sample::select(vec![f32::NEG_INFINITY, 1e30, -1e30, -0.0, 0.0]);
    let one = prop_oneof![6 => smooth, 6 => tied.clone(), 1 => odd];
    prop_oneof![
        prop::collection::vec(one, 1..300),
        prop::collection::vec(tied, 1..1500),
        prop::collection::vec(-3.0f32..3.0, 200..1500),
    ]
    .prop_flat_map(|logits| {
        let position = 0..logits.len();
        (Just(logits), position)
    })
    .prop_map(|(mut logits, possible)| {
        // One token is always possible.
        logits[possible] = logits[possible].max(-1e30);
        logits
    })
}

fn any_case() -> impl Strategy<Value = (Vec<f32>, SamplingParams, Vec<u32>, Vec<u32>)> {
    any_logits().prop_flat_map(|logits| {
        let vocab_size = logits.len();
        let ids = || prop::collection::vec(0..vocab_size as u32, 0..20);
        (Just(logits), any_params(vocab_size), ids(), ids())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn candidates_and_probabilities_are_the_reference(case in any_case()) {
        let (logits, params, prompt, answer) = case;
        prop_assert_eq!(compare(&params, &logits, &prompt, &answer), Ok(()));
    }

    #[test]
    fn log_probabilities_are_the_reference(case in any_case(), top in 0usize..=20) {
        let (logits, params, prompt, _) = case;
        let params = SamplingParams { logprobs: Some(top), seed: Some(1), ..params };
        let sampled = Sampler::new(&params, logits.len(), &prompt).unwrap().sample(&logits).unwrap();
        let expected = reference::log_softmax(&logits);
        let close = |got: f32, id: u32| {
            let exact = expected[id as usize];
            (f64::from(got) - exact).abs() <= 1e-6 * exact.abs().max(1.0)
        };
        prop_assert!(close(sampled.logprob, sampled.token), "{:?}", sampled);
        prop_assert!(sampled.top_logprobs.iter().all(|&(id, logprob)| close(logprob, id)));
        let got: Vec<u32> = sampled.top_logprobs.iter().map(|&(id, _)| id).collect();
        let mut ranking: Vec<(u32, f32)> = (0u32..).zip(logits).collect();
        ranking.retain(|&(_, logit)| logit > f32::NEG_INFINITY);
        ranking.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        ranking.truncate(top);
        prop_assert_eq!(got, ranking.iter().map(|&(id, _)| id).collect::<Vec<_>>());
    }

    #[test]
    fn greedy_is_the_lowest_id_of_the_greatest(case in any_case()) {
        let (logits, params, prompt, _) = case;
        let params = SamplingParams { temperature: 0.0, ..params };
        let sampled = Sampler::new(&params, logits.len(), &prompt).unwrap().sample(&logits).unwrap();
        let adjusted = reference::adjusted(&params, &logits, &prompt, &[]);
        let best = adjusted.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        prop_assert_eq!(sampled.token as usize, adjusted.iter().position(|&logit| logit == best).unwrap());
    }

    #[test]
    fn no_logits_panic(bits in prop::collection::vec(any::<u32>(), 1..70), params in any_params(1)) {
        let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let bad = logits.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY);
        match sampler(&params, logits.len()).sample(&logits) {
            Ok(sampled) => prop_assert!(!bad && logits[sampled.token as usize] > f32::NEG_INFINITY),
            Err(Error::NonFiniteLogits { .. }) => prop_assert!(bad),
            Err(Error::NoPossibleToken { vocab_size }) => prop_assert_eq!(vocab_size, logits.len()),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

#[test]
fn a_whole_vocabulary_is_the_reference() {
    let off = SamplingParams::default();
    let rows = [
        SamplingParams { top_k: Some(1), ..off.clone() },
        SamplingParams { top_k: Some(50), ..off.clone() },
        SamplingParams { top_k: Some(40_000), ..off.clone() },
        SamplingParams { top_p: 0.95, ..off.clone() },
        SamplingParams { top_p: 0.5, temperature: 2.0, ..off.clone() },
        SamplingParams { top_k: Some(1000), top_p: 0.9, ..off.clone() },
        SamplingParams { min_p: 0.05, ..off.clone() },
        SamplingParams { top_k: Some(40), top_p: 0.95, min_p: 0.05, temperature: 0.8, ..off },
    ];
    // A flat distribution, one like a language model's, and one with a single outlier.
    let mut outlier = noise(129_280, 0.1, 3);
    outlier[77_777] = 9.0;
    for logits in [noise(129_280, 0.01, 1), noise(129_280, 3.0, 2), outlier] {
        for params in &rows {
            assert_eq!(compare(params, &logits, &[], &[]), Ok(()), "{params:?}");
        }
    }
}

#[test]
fn frequencies_follow_the_probabilities() {
    // 40 tokens, top-p removes some; Pearson's statistic over 100,000 draws with a fixed seed.
    let logits = noise(40, 1.0, 5);
    let params = SamplingParams { temperature: 0.9, top_p: 0.97, ..seeded(11) };
    let mut sampler = sampler(&params, logits.len());
    let distribution = sampler.distribution(&logits);
    assert!((20..40).contains(&distribution.len()));
    let num_draws = 100_000;
    let mut counts = [0u32; 40];
    for _ in 0..num_draws {
        counts[sampler.sample(&logits).unwrap().token as usize] += 1;
    }
    let kept: HashSet<u32> = distribution.iter().map(|&(id, _)| id).collect();
    assert!((0..40).filter(|id| !kept.contains(id)).all(|id| counts[id as usize] == 0));
    let terms = distribution.iter().map(|&(id, p)| {
        let expected = p * f64::from(num_draws);
        (f64::from(counts[id as usize]) - expected).powi(2) / expected
    });
    let (statistic, freedom) = (terms.sum::<f64>(), (distribution.len() - 1) as f64);
    // Four standard deviations of the chi-squared distribution.
    assert!(statistic < freedom + 4.0 * (2.0 * freedom).sqrt(), "{statistic} with {freedom} degrees");
}

fn tokens(params: &SamplingParams, steps: u64) -> Vec<u32> {
    let mut sampler = sampler(params, 500);
    (0..steps).map(|step| sampler.sample(&noise(500, 2.0, step)).unwrap().token).collect()
}

#[test]
fn the_seed_decides() {
    let free = SamplingParams::default();
    assert_eq!(tokens(&seeded(7), 50), tokens(&seeded(7), 50));
    assert_ne!(tokens(&seeded(7), 50), tokens(&seeded(8), 50));
    // Without one, two samplers differ, and each can be repeated.
    let (mut first, second) = (sampler(&free, 500), sampler(&free, 500));
    assert_ne!(first.seed(), second.seed());
    let once: Vec<u32> = (0..50).map(|step| first.sample(&noise(500, 2.0, step)).unwrap().token).collect();
    assert_eq!(once, tokens(&seeded(first.seed()), 50));
    assert_eq!(sampler(&seeded(7), 500).seed(), 7);
    // Truncation that removes nothing changes nothing.
    let loose = SamplingParams { top_k: Some(500), top_p: 1.0, min_p: 1e-30, ..seeded(7) };
    assert_eq!(tokens(&loose, 50), tokens(&seeded(7), 50));
}

#[test]
fn the_stream_is_fixed_for_ever() {
    // The first eight bytes of ChaCha8 with a zero key (3e00ef2f 895f40d6).
    assert_eq!(rng_from(0).next_u64(), 0xd640_5f89_2fef_003e);
    assert_eq!(tokens(&seeded(2024), 8), [236, 69, 197, 269, 71, 379, 28, 432]);
}

#[test]
fn penalties_follow_the_answer() {
    // Each token is banned as soon as it has been generated: greedy goes through them by descending logit.
    let params = SamplingParams { presence_penalty: 2.0, ..SamplingParams::greedy() };
    let mut sampler = Sampler::new(&params, 4, &[0]).unwrap();
    let mut next = || sampler.sample(&[1.0, 0.9, 0.8, 0.7]).unwrap().token;
    assert_eq!([next(), next(), next(), next(), next()], [0, 1, 2, 3, 0]);
    // The repetition penalty knows the prompt from the start.
    let params = SamplingParams { repetition_penalty: 1.5, ..SamplingParams::greedy() };
    let mut sampler = Sampler::new(&params, 3, &[0]).unwrap();
    let mut next = || sampler.sample(&[1.0, 0.9, 0.8]).unwrap().token;
    assert_eq!([next(), next(), next()], [1, 2, 0]);
}

#[test]
fn reported_probabilities_are_the_raw_ones() {
    let params = SamplingParams {
        temperature: 0.1,
        top_k: Some(1),
        logit_bias: vec![(2, 100.0)],
        logprobs: Some(2),
        ..seeded(1)
    };
    let sampled = sampler(&params, 3).sample(&[1.0, 1.0, f32::MIN_POSITIVE]).unwrap();
    let exact = reference::log_softmax(&[1.0, 1.0, 0.0]);
    let expected = Sampled {
        token: 2,
        logprob: exact[2] as f32,
        top_logprobs: vec![(0, exact[0] as f32), (1, exact[1] as f32)],
    };
    assert_eq!(sampled, expected);
}

#[test]
fn impossible_and_broken_logits() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let token = |logits: &[f32]| sampler(&seeded(3), logits.len()).sample(logits).map(|s| s.token);
    assert!(matches!(token(&[-inf, -1e30, -inf]), Ok(1)));
    assert!(matches!(token(&[-1e30, 1e30, 0.0]), Ok(1)));
    assert!(matches!(token(&[-inf, -inf]), Err(Error::NoPossibleToken { vocab_size: 2 })));
    assert!(matches!(token(&[0.0, inf]), Err(Error::NonFiniteLogits { token: 1, value }) if value == inf));
    assert!(matches!(token(&[0.0, 0.0, nan]), Err(Error::NonFiniteLogits { token: 2, .. })));
    let short = sampler(&seeded(3), 3).sample(&[0.0]);
    assert!(matches!(short, Err(Error::LogitsLength { expected: 3, got: 1 })));
    let beyond = Sampler::new(&seeded(3), 3, &[0, 3]).map(|sampler| sampler.seed());
    assert!(matches!(beyond, Err(Error::PromptToken { position: 1, id: 3, vocab_size: 3 })));
    let hot = SamplingParams { temperature: 3.0, ..seeded(3) };
    assert!(matches!(Sampler::new(&hot, 3, &[]), Err(Error::InvalidParam { .. })));
    // An impossible token cannot be bought with a bias.
    let bribed = SamplingParams { logit_bias: vec![(0, 100.0)], ..SamplingParams::greedy() };
    assert_eq!(sampler(&bribed, 2).sample(&[-inf, -50.0]).unwrap().token, 1);
}

#[test]
fn scratch_space_is_reused() {
    let params = SamplingParams { top_p: 0.9, frequency_penalty: 0.1, ..seeded(1) };
    let mut sampler = sampler(&params, 5000);
    let logits = noise(5000, 0.01, 9);
    for _ in 0..2 {
        sampler.sample(&logits).unwrap();
    }
    let capacity = |sampler: &Sampler| (sampler.adjusted.capacity(), sampler.candidates.capacities());
    let before = capacity(&sampler);
    for _ in 0..20 {
        sampler.sample(&logits).unwrap();
    }
    assert_eq!(capacity(&sampler), before);
}
