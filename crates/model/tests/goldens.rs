//! The fixtures' reference outputs (transformers, float32): logits, routing, hidden states, MTP,
//! in every way a sequence can be fed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fathom_checkpoint::Checkpoint;
use fathom_kernels::gemm::WeightFormat;
use fathom_kernels::{Compute, Isa};
use fathom_model::{
    AttentionForm, ForwardOptions, LoadOptions, LogitRows, Model, MtpSegment, Observed, Segment, Sequence,
    Workspace,
};

/// transformers' own kernels differ by 1e-5 on logits of size 9.
const LOGITS: f32 = 2e-4;

const FIXTURES: [&str; 5] = ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-fp8", "tiny-v3-mtp"];

fn dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn model(name: &str, isa: Isa) -> Model {
    let options = LoadOptions { mtp: true, ..LoadOptions::new(WeightFormat::F32) };
    Model::load(&dir(name), Compute::with_isa(isa, 2), options, &mut |_, _| {}).expect("the fixture loads")
}

struct Golden(Checkpoint);

impl Golden {
    fn open(name: &str) -> Self {
        Self(Checkpoint::open(&dir(name).join("golden.safetensors")).expect("the golden file is there"))
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.0.tensor(name).expect("named in the README").to_f32().expect("floats")
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.0.tensor(name).expect("named in the README").to_i64().expect("integers");
        ids.into_iter().map(|id| id as u32).collect()
    }

    fn sequences(&self) -> Vec<Vec<u32>> {
        (0..)
            .map_while(|i| {
                self.0.contains(&format!("seq{i}.input_ids")).then(|| self.ids(&format!("seq{i}.input_ids")))
            })
            .collect()
    }
}

#[track_caller]
fn close(actual: &[f32], expected: &[f32], tolerance: f32, case: &str) {
    assert_eq!(actual.len(), expected.len(), "{case}: length");
    let worst = actual.iter().zip(expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{case}: off by {worst}");
    assert!(actual.iter().all(|value| value.is_finite()), "{case}: not finite");
}

/// Everything observed in one or more passes over one sequence, appended row by row.
#[derive(Default)]
struct Seen {
    logits: Vec<f32>,
    floats: BTreeMap<String, Vec<f32>>,
    ids: BTreeMap<usize, Vec<u32>>,
}

impl Seen {
    fn take(&mut self, observed: Observed<'_>) {
        let mut push =
            |name: String, values: &[f32]| self.floats.entry(name).or_default().extend_from_slice(values);
        match observed {
            Observed::Embed(values) => push("embed".to_owned(), values),
            Observed::AttentionOut { layer, values } => push(format!("layer{layer}.attn_out"), values),
            Observed::MlpOut { layer, values } => push(format!("layer{layer}.mlp_out"), values),
            Observed::Hidden { layer, values } => push(format!("layer{layer}.hidden"), values),
            Observed::Routed { layer, router_logits, routing } => {
                push(format!("layer{layer}.router_logits"), router_logits);
                push(format!("layer{layer}.expert_weights"), routing.expert_weights);
                self.ids.entry(layer).or_default().extend_from_slice(routing.expert_ids);
            }
            Observed::AttentionInputs { .. } | Observed::FeedForwardInputs { .. } => {}
        }
    }
}

/// Feeds `tokens` in pieces of at most `piece`.
fn feed(model: &Model, tokens: &[u32], piece: usize, form: Option<AttentionForm>) -> Seen {
    let (mut workspace, mut cache) =
        (Workspace::default(), model.new_cache(tokens.len()).expect("a small cache"));
    let (mut sequence, mut seen) = (Sequence::default(), Seen::default());
    for tokens in tokens.chunks(piece) {
        let mut observer = |observed: Observed<'_>| seen.take(observed);
        let options = ForwardOptions { attention_form: form, observer: Some(&mut observer) };
        let segment = Segment { sequence: &mut sequence, tokens, logits: LogitRows::All };
        let logits =
            model.forward(&mut workspace, &mut cache, &mut [segment], options).expect("runs").to_vec();
        seen.logits.extend_from_slice(&logits);
    }
    seen
}

fn check_sequence(seen: &Seen, golden: &Golden, index: usize, case: &str) {
    close(&seen.logits, &golden.floats(&format!("seq{index}.logits")), LOGITS, case);
    for (layer, ids) in &seen.ids {
        assert_eq!(ids, &golden.ids(&format!("seq{index}.layer{layer}.expert_ids")), "{case}: layer {layer}");
        let weights = golden.floats(&format!("seq{index}.layer{layer}.expert_weights"));
        let scale = weights.iter().copied().fold(1.0, f32::max);
        close(&seen.floats[&format!("layer{layer}.expert_weights")], &weights, 1e-5 * scale, case);
    }
}

#[test]
fn every_form_of_every_fixture_gives_the_reference_logits_and_experts() {
    for name in FIXTURES {
        let (model, golden) = (model(name, Isa::best()), Golden::open(name));
        for (index, tokens) in golden.sequences().iter().enumerate() {
            for form in [None, Some(AttentionForm::Expanded), Some(AttentionForm::Absorbed)] {
                for piece in [tokens.len(), 1, 5] {
                    let case = format!("{name} seq{index} {form:?} in pieces of {piece}");
                    check_sequence(&feed(&model, tokens, piece, form), &golden, index, &case);
                }
            }
        }
    }
}

#[test]
fn every_isa_gives_the_reference_logits() {
    for isa in Isa::available() {
        for name in ["tiny-v2", "tiny-v3-fp8"] {
            let (model, golden) = (model(name, isa), Golden::open(name));
            let tokens = &golden.sequences()[3];
            check_sequence(&feed(&model, tokens, tokens.len(), None), &golden, 3, &format!("{name} {isa}"));
        }
    }
}

#[test]
fn hidden_states_match_layer_by_layer() {
    for name in FIXTURES {
        let (model, golden) = (model(name, Isa::best()), Golden::open(name));
        let seen = feed(&model, &golden.sequences()[2], usize::MAX, None);
        let traced = golden.0.names().filter_map(|tensor| tensor.strip_prefix("trace."));
        for tensor in traced {
            let expected = golden.floats(&format!("trace.{tensor}"));
            let size = expected.iter().map(|v| v.abs()).fold(1.0, f32::max);
            close(&seen.floats[tensor], &expected, 2e-5 * size, &format!("{name} {tensor}"));
        }
    }
}

#[test]
fn sequences_in_one_batch_do_not_see_each_other() {
    for name in FIXTURES {
        let (model, golden) = (model(name, Isa::best()), Golden::open(name));
        let all = golden.sequences();
        let vocab = model.config().vocab_size;
        let (mut workspace, mut cache) =
            (Workspace::default(), model.new_cache(4096).expect("a small cache"));
        let mut places: Vec<Sequence> = all.iter().map(|_| Sequence::default()).collect();
        let mut logits: Vec<Vec<f32>> = vec![Vec::new(); all.len()];
        // Chunks of different lengths side by side, until every sequence is through.
        for step in 0.. {
            let pieces: Vec<(usize, &[u32])> = all
                .iter()
                .enumerate()
                .filter_map(|(i, tokens)| tokens.chunks(1 + 9 * i).nth(step).map(|piece| (i, piece)))
                .collect();
            if pieces.is_empty() {
                break;
            }
            let mut segments: Vec<Segment<'_>> = places
                .iter_mut()
                .enumerate()
                .filter_map(|(i, sequence)| {
                    let tokens = pieces.iter().find(|(index, _)| *index == i)?.1;
                    Some(Segment { sequence, tokens, logits: LogitRows::All })
                })
                .collect();
            let out = model
                .forward(&mut workspace, &mut cache, &mut segments, ForwardOptions::default())
                .expect("runs");
            let mut rows = out.chunks_exact(vocab);
            for (index, piece) in pieces {
                logits[index].extend(rows.by_ref().take(piece.len()).flatten());
            }
        }
        for (index, logits) in logits.iter().enumerate() {
            close(
                logits,
                &golden.floats(&format!("seq{index}.logits")),
                LOGITS,
                &format!("{name} seq{index}"),
            );
        }
    }
}

#[test]
fn greedy_continuations_are_the_reference_tokens() {
    for name in FIXTURES {
        let (model, golden) = (model(name, Isa::best()), Golden::open(name));
        let expected = golden.ids("greedy.tokens");
        let (mut workspace, mut cache) = (Workspace::default(), model.new_cache(256).expect("a small cache"));
        let mut sequence = Sequence::default();
        let mut next = golden.sequences()[2].clone();
        let mut tokens = Vec::new();
        while tokens.len() < expected.len() {
            let segment = Segment { sequence: &mut sequence, tokens: &next, logits: LogitRows::Last };
            let logits = model
                .forward(&mut workspace, &mut cache, &mut [segment], ForwardOptions::default())
                .expect("runs");
            let best =
                (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("a vocabulary");
            tokens.push(best as u32);
            next = vec![best as u32];
        }
        assert_eq!(tokens, expected, "{name}");
    }
}

#[test]
fn the_mtp_module_predicts_two_ahead_as_the_reference() {
    let (model, golden) = (model("tiny-v3-mtp", Isa::best()), Golden::open("tiny-v3-mtp"));
    let hidden = model.config().hidden_size;
    for (index, tokens) in golden.sequences().iter().enumerate().filter(|(_, tokens)| tokens.len() > 1) {
        for piece in [tokens.len(), 3] {
            let (mut workspace, mut cache) =
                (Workspace::default(), model.new_cache(512).expect("a small cache"));
            let (mut sequence, mut ahead) = (Sequence::default(), Sequence::default());
            let segment = Segment { sequence: &mut sequence, tokens, logits: LogitRows::None };
            model
                .forward(&mut workspace, &mut cache, &mut [segment], ForwardOptions::default())
                .expect("runs");
            let states = model.hidden(&workspace)[..(tokens.len() - 1) * hidden].to_vec();
            let (mut logits, mut normed, mut ids) = (Vec::new(), Vec::new(), Vec::new());
            for (states, tokens) in states.chunks(piece * hidden).zip(tokens[1..].chunks(piece)) {
                let segment =
                    MtpSegment { sequence: &mut ahead, hidden: states, tokens, logits: LogitRows::All };
                let mut observer = |observed: Observed<'_>| {
                    if let Observed::Routed { routing, .. } = observed {
                        ids.extend_from_slice(routing.expert_ids);
                    }
                };
                let options = ForwardOptions { observer: Some(&mut observer), ..Default::default() };
                let out =
                    model.forward_mtp(0, &mut workspace, &mut cache, &mut [segment], options).expect("runs");
                logits.extend_from_slice(out);
                normed.extend_from_slice(&model.hidden(&workspace)[..tokens.len() * hidden]);
            }
            let case = format!("mtp seq{index} in pieces of {piece}");
            close(&logits, &golden.floats(&format!("mtp.seq{index}.logits")), LOGITS, &case);
            close(&normed, &golden.floats(&format!("mtp.seq{index}.hidden")), 1e-4, &case);
            assert_eq!(ids, golden.ids(&format!("mtp.seq{index}.expert_ids")), "{case}");
        }
    }
}

/// bf16 weights are comparable in kind only: the tiny models amplify rounding. They must stay
/// close where no expert flips, and the first position has no attention to amplify.
#[test]
fn bf16_weights_give_nearly_the_same_first_logits() {
    for name in ["tiny-v2", "tiny-v3-mtp"] {
        let options = LoadOptions::new(WeightFormat::Bf16);
        let compute = Compute::with_isa(Isa::best(), 2);
        let model = Model::load(&dir(name), compute, options, &mut |_, _| {}).expect("loads");
        let golden = Golden::open(name);
        let seen = feed(&model, &golden.sequences()[0], 1, None);
        let expected = golden.floats("seq0.logits");
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let similarity = dot(&seen.logits, &expected)
            / (dot(&seen.logits, &seen.logits) * dot(&expected, &expected)).sqrt();
        assert!(similarity > 0.999, "{name}: {similarity}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let golden = Golden::open("tiny-v3");
    let tokens = &golden.sequences()[3];
    let run = |threads| {
        let options = LoadOptions::new(WeightFormat::Bf16);
        let compute = Compute::with_isa(Isa::best(), threads);
        let model = Model::load(&dir("tiny-v3"), compute, options, &mut |_, _| {}).expect("loads");
        feed(&model, tokens, 40, None).logits
    };
    assert_eq!(run(1), run(3));
}
