//! Perplexity on a fixture against the sum over logits of whole passes.

use std::ops::ControlFlow;
use std::path::PathBuf;

use fathom_checkpoint::Checkpoint;
use fathom_eval::{Document, Error, Score, Windowing, perplexity};
use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::{ForwardOptions, LoadOptions, LogitRows, Model, Segment, Sequence, Workspace};
use fathom_text::Tokenizer;

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny-v3")
}

fn model() -> Model {
    let options = LoadOptions::new(WeightFormat::F32);
    Model::load(&dir(), Compute::new(2).unwrap(), options, &mut |_, _| {}).unwrap()
}

fn score(model: &Model, document: &Document, window: usize, stride: usize) -> Score {
    perplexity(model, document, Windowing { window, stride }, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// −log p of the last `scored` tokens of `tokens`, by one pass and plain arithmetic.
fn nll(model: &Model, tokens: &[u32], scored: usize) -> f64 {
    let (mut workspace, mut cache) =
        (Workspace::default(), model.new_cache(tokens.len()).expect("a small cache"));
    let segment = Segment { sequence: &mut Sequence::default(), tokens, logits: LogitRows::All };
    let logits =
        model.forward(&mut workspace, &mut cache, &mut [segment], ForwardOptions::default()).unwrap();
    let rows: Vec<&[f32]> = logits.chunks_exact(model.config().vocab_size).collect();
    (tokens.len() - scored..tokens.len())
        .map(|target| {
            let row = rows[target - 1];
            let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            sum.ln() - f64::from(row[tokens[target] as usize])
        })
        .sum()
}

#[track_caller]
fn close(got: f64, expected: f64) {
    // Pieces run in other forms of attention than one pass: 1e-5 per logit.
    assert!((got - expected).abs() < 1e-3, "{got}, expected {expected}");
}

#[test]
fn a_text_in_one_window_is_the_reference() {
    let (model, golden) = (model(), Checkpoint::open(&dir().join("golden.safetensors")).unwrap());
    let ids = golden.tensor("seq3.input_ids").unwrap().to_i64().unwrap();
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let logits = golden.tensor("seq3.logits").unwrap().to_f32().unwrap();
    let expected: f64 = logits
        .chunks_exact(512)
        .zip(&ids[1..])
        .map(|(row, &target)| {
            let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            sum.ln() - f64::from(row[target as usize])
        })
        .sum();
    let document = Document { bos: None, tokens: ids.clone(), bytes: 1000 };
    let got = score(&model, &document, 100, 100);
    close(got.nll, expected);
    assert_eq!((got.tokens, got.complete), (96, true));
    close(got.perplexity().ln(), expected / 96.0);
    close(got.bits_per_byte().unwrap(), expected / 2f64.ln() / 1000.0);
    // With the first token as bos, the same tokens are scored.
    let document = Document { bos: Some(ids[0]), tokens: ids[1..].to_vec(), bytes: 1000 };
    close(score(&model, &document, 97, 1).nll, expected);
}

#[test]
fn windows_are_passes_of_their_own() {
    let model = model();
    let tokens: Vec<u32> = (0..20).map(|i| 10 + i * 13 % 300).collect();
    let plain = Document { bos: None, tokens: tokens.clone(), bytes: 60 };
    let got = score(&model, &plain, 8, 4);
    let expected = nll(&model, &tokens[0..8], 7)
        + nll(&model, &tokens[4..12], 4)
        + nll(&model, &tokens[8..16], 4)
        + nll(&model, &tokens[12..20], 4);
    close(got.nll, expected);
    assert_eq!(got.tokens, 19);

    let with_bos = Document { bos: Some(0), ..plain };
    let behind_bos = |range: std::ops::Range<usize>| [&[0], &tokens[range]].concat();
    let expected = nll(&model, &behind_bos(0..7), 7)
        + nll(&model, &behind_bos(7..14), 7)
        + nll(&model, &behind_bos(14..20), 6);
    let got = score(&model, &with_bos, 8, 8);
    close(got.nll, expected);
    assert_eq!(got.tokens, 20);
}

#[test]
fn it_can_be_watched_and_cancelled() {
    let model = model();
    let document = Document { bos: Some(0), tokens: vec![7; 40], bytes: 80 };
    let mut seen = Vec::new();
    let got = perplexity(&model, &document, Windowing { window: 11, stride: 11 }, &mut |score, total| {
        seen.push((score.tokens, total));
        if score.tokens < 20 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .unwrap();
    assert_eq!(seen, [(10, 40), (20, 40)]);
    assert_eq!((got.tokens, got.complete, got.bits_per_byte()), (20, false, None));
}

#[test]
fn documents_keep_bos_apart() {
    let tokenizer = Tokenizer::from_dir(&dir()).unwrap();
    let text = "The quick brown fox — 好";
    let document = Document::encode(&tokenizer, text).unwrap();
    assert_eq!(document.bos, Some(0));
    assert_eq!(document.bytes, text.len());
    assert_eq!(document.tokens, tokenizer.encode(text, true).unwrap()[1..]);
}

#[test]
fn what_cannot_be_scored() {
    let model = model();
    let refuse = |bos, tokens: &[u32], window, stride| {
        let document = Document { bos, tokens: tokens.to_vec(), bytes: 1 };
        perplexity(&model, &document, Windowing { window, stride }, &mut |_, _| ControlFlow::Continue(()))
            .unwrap_err()
    };
    assert!(matches!(refuse(Some(0), &[], 8, 8), Error::TooShort { tokens: 0, needed: 1 }));
    assert!(matches!(refuse(None, &[5], 8, 8), Error::TooShort { tokens: 1, needed: 2 }));
    assert!(matches!(refuse(None, &[5, 6], 1, 1), Error::Window { window: 1, context: 2560 }));
    assert!(matches!(refuse(None, &[5, 6], 2561, 1), Error::Window { .. }));
    for stride in [0, 9] {
        let error = refuse(None, &[5, 6], 8, stride);
        assert!(matches!(error, Error::Stride { stride: got, window: 8 } if got == stride), "{error}");
    }
    assert!(matches!(refuse(None, &[5, 512], 8, 8), Error::Token { position: 1, token: 512, .. }));
}
