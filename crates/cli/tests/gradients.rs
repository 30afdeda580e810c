//! `fathom gradients` as a program: what it writes, and what bad input gets.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn gradients(model: &Path, tokens: &str, out: &Path) -> Output {
    let file = out.with_extension("json");
    std::fs::write(&file, tokens).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom"));
    command.args(["gradients", "--threads", "2", "--model"]).arg(model);
    command.arg("--tokens").arg(file).arg("--out").arg(out).output().unwrap()
}

#[test]
fn loss_and_gradients_are_named_as_in_the_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("gradients.safetensors");
    let output = gradients(&fixture("tiny-v3"), "[[0, 17, 4, 99], [0, 5, 6, 7]]", &out);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written = fathom_checkpoint::Checkpoint::open(&out).unwrap();
    let model = fathom_checkpoint::Checkpoint::open(&fixture("tiny-v3")).unwrap();
    for tensor in model.tensors().filter(|tensor| !tensor.name.ends_with("e_score_correction_bias")) {
        assert_eq!(written.tensor(&format!("grad.{}", tensor.name)).unwrap().shape, tensor.shape);
    }
    let loss = written.tensor("loss").unwrap().to_f32().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("loss {}", loss[0])));
}

#[test]
fn bad_batches_are_refused_and_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("gradients.safetensors");
    for (tokens, expected) in [
        ("[]", "expected at least one list"),
        ("[[1, 2, 3], [1, 2]]", "list 1 has 2 tokens, the first has 3"),
        ("[[1]]", "at least 2 are needed"),
        ("[[1, 9999]]", "outside the vocabulary of 512"),
    ] {
        let output = gradients(&fixture("tiny-v3"), tokens, &out);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(expected), "{tokens}: {message}");
        assert!(!out.exists());
    }
}
