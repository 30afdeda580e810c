//! `fathom logits` against the fixtures' reference outputs.

use std::path::PathBuf;

use fathom_checkpoint::Checkpoint;
use serde_json::json;
use tempfile::TempDir;

use crate::fathom::{Copy, FIXTURES, Golden, fixture, run, scratch};

/// transformers' own kernels differ by 1e-5 on logits of size 9.
const LOGITS: f32 = 2e-4;

struct Out {
    _dir: TempDir,
    file: Checkpoint,
}

fn logits(name: &str, sequences: &[Vec<u32>], args: &[&str]) -> Out {
    let (dir, tokens) = scratch("ids.json", &json!(sequences).to_string());
    let out = dir.path().join("out.safetensors");
    let paths = ["--tokens", &tokens, "--out", out.to_str().unwrap()];
    let ran = run("logits", &fixture(name), &[&paths, args].concat()).ok();
    assert_eq!((&*ran.stdout, &*ran.stderr), ("", ""));
    let names: Vec<PathBuf> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 2, "nothing is left behind: {names:?}");
    Out { file: Checkpoint::open(&out).unwrap(), _dir: dir }
}

impl Out {
    #[track_caller]
    fn close(&self, golden: &Golden, name: &str, expected: &str, tolerance: f32, case: &str) {
        let (got, want) = (self.file.tensor(name).unwrap(), golden.0.tensor(expected).unwrap());
        assert_eq!(got.shape, want.shape, "{case} {name}");
        let (got, want) = (got.to_f32().unwrap(), want.to_f32().unwrap());
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= tolerance, "{case} {name}: off by {worst}");
    }

    #[track_caller]
    fn same_ids(&self, golden: &Golden, name: &str, case: &str) {
        let ids = |file: &Checkpoint| file.tensor(name).unwrap().to_i64().unwrap();
        assert_eq!(ids(&self.file), ids(&golden.0), "{case} {name}");
    }
}

#[test]
fn every_form_is_the_reference() {
    for name in FIXTURES {
        let golden = Golden::open(name);
        for form in ["prefill", "decode", "batch"] {
            let (case, out) =
                (format!("{name} {form}"), logits(name, &golden.sequences(), &["--form", form]));
            let mut compared = 0;
            for tensor in
                golden.0.names().filter(|name| name.starts_with("seq") || name.starts_with("mtp.seq"))
            {
                if tensor.ends_with("expert_ids") {
                    out.same_ids(&golden, tensor, &case);
                } else if tensor.ends_with("input_ids") {
                    continue;
                } else if tensor.ends_with("expert_weights") {
                    out.close(&golden, tensor, tensor, 1e-5 * 16.0, &case);
                } else {
                    out.close(&golden, tensor, tensor, LOGITS, &case);
                }
                compared += 1;
            }
            assert_eq!(compared, out.file.names().count(), "{case}: every tensor has its reference");
        }
    }
}

#[test]
fn both_forms_of_attention_can_be_forced() {
    let golden = Golden::open("tiny-v2");
    for attention in ["expanded", "absorbed"] {
        let out = logits("tiny-v2", &golden.sequences()[3..4], &["--attention", attention]);
        out.close(&golden, "seq0.logits", "seq3.logits", LOGITS, attention);
    }
}

#[test]
fn traces_are_the_reference() {
    for (name, form) in [("tiny-v3", "prefill"), ("tiny-v2-lite", "decode"), ("tiny-v3-mtp", "batch")] {
        let golden = Golden::open(name);
        // A second sequence beside it, so that rows have to be told apart.
        let sequences = [golden.sequences()[1].clone(), golden.sequences()[2].clone()];
        let out = logits(name, &sequences, &["--trace", "--form", form]);
        let mut compared = 0;
        for tensor in golden.0.names().filter(|name| name.starts_with("trace.")) {
            out.close(&golden, &format!("seq1.{tensor}"), tensor, 5e-4, name);
            compared += 1;
        }
        assert!(compared > 10);
    }
}

#[test]
fn mtp_modules_can_be_left_out() {
    let golden = Golden::open("tiny-v3-mtp");
    let out = logits("tiny-v3-mtp", &golden.sequences()[..2], &["--no-mtp"]);
    assert!(out.file.names().all(|name| name.starts_with("seq")));
    out.close(&golden, "seq1.logits", "seq1.logits", LOGITS, "no mtp");
}

#[test]
fn sequences_longer_than_a_piece_agree_in_every_form() {
    let long: Vec<u32> = (0..700).map(|i| 3 + i * 31 % 500).collect();
    let sequences = [vec![5, 6], long, vec![7]];
    let values = |form: &str| {
        let out = logits("tiny-v3-mtp", &sequences, &["--form", form]);
        ["seq1.logits", "mtp.seq1.logits", "seq2.last_hidden"]
            .map(|name| out.file.tensor(name).unwrap().to_f32().unwrap())
    };
    let (prefill, batch) = (values("prefill"), values("batch"));
    for (prefill, batch) in prefill.iter().zip(&batch) {
        let worst = prefill.iter().zip(batch).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= LOGITS && prefill.len() == batch.len(), "off by {worst}");
    }
}

#[test]
fn nothing_is_written_if_something_is_wrong() {
    let copy = Copy::of("tiny-v3");
    std::fs::remove_file(copy.file("model-00002-of-00002.safetensors")).unwrap();
    let (dir, tokens) = scratch("ids.json", "[[0, 5]]");
    let out = dir.path().join("out.safetensors");
    std::fs::write(&out, "the old one").unwrap();
    run("logits", &copy.model(), &["--tokens", &tokens, "--out", out.to_str().unwrap()])
        .refused(&["model-00002-of-00002.safetensors"]);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "the old one");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}
