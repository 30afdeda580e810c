//! `fathom score`.

use serde_json::Value;

use crate::fathom::{Golden, fixture, run, run_with, scratch};

const TEXT: &str = "Hello, 世界! def f(x): return x**2  # 12345";

fn score(args: &[&str]) -> Value {
    let (_dir, file) = scratch("text", TEXT);
    let args = [&["--file", &file, "--dtype", "f32", "--json"], args].concat();
    run("score", &fixture("tiny-v3"), &args).json()
}

#[test]
fn a_text_is_scored_as_by_the_reference() {
    // The fixture's last sequence is bos and this text.
    let golden = Golden::open("tiny-v3");
    let (ids, logits) = (golden.ids("seq4.input_ids"), golden.floats("seq4.logits"));
    let nll: f64 = logits
        .chunks(512)
        .zip(&ids[1..])
        .map(|(row, &target)| {
            let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            sum.ln() - f64::from(row[target as usize])
        })
        .sum();
    let (tokens, got) = (ids.len() - 1, score(&[]));
    let close = |name: &str, expected: f64| {
        let got = got[name].as_f64().unwrap();
        assert!((got / expected - 1.0).abs() < 1e-4, "{name}: {got}, expected {expected}");
    };
    assert_eq!(got["tokens"], tokens);
    assert_eq!(got["bytes"], TEXT.len());
    close("nll", nll);
    close("perplexity", (nll / tokens as f64).exp());
    close("bits_per_byte", nll / 2f64.ln() / TEXT.len() as f64);
}

#[test]
fn windows() {
    let (whole, windowed) = (score(&[]), score(&["--window", "16", "--stride", "4"]));
    assert_eq!((&whole["window"], &whole["stride"]), (&2048.into(), &2047.into()));
    assert_eq!(windowed["tokens"], whole["tokens"]);
    assert_ne!(windowed["nll"], whole["nll"]);
}

#[test]
fn people_can_read_it() {
    let ran = run_with("score", &fixture("tiny-v2-lite"), &["--file", "-"], TEXT.as_bytes()).ok();
    for word in ["perplexity", "bits per byte", "tokens", "window"] {
        assert!(ran.stdout.contains(word), "{}", ran.stdout);
    }
}

#[test]
fn what_cannot_be_scored() {
    let model = fixture("tiny-v3");
    let refuse = |args: &[&str], input: &[u8], words: &[&str]| {
        run_with("score", &model, &[&["--file", "-"], args].concat(), input).refused(words);
    };
    refuse(&[], b"", &["the text has 0 tokens"]);
    refuse(&[], b"a\xff", &["UTF-8", "offset 1"]);
    refuse(&["--window", "4000"], b"abc", &["4000", "2560"]);
    refuse(&["--window", "1"], b"abc", &["window of 1"]);
    refuse(&["--stride", "0"], b"abc", &["stride of 0", "window of 2048"]);
    refuse(&["--window", "8", "--stride", "9"], b"abc", &["stride of 9", "window of 8"]);
}
