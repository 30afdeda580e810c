//! `fathom quantize`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fathom::{Copy, Golden, command, fixture, run, scratch};

const TEXT: &str = "Hello, 世界! def f(x): return x**2  # 12345. The quick brown fox jumps over the lazy dog, \
                    then it writes a letter: \u{201c}Dear Sir or Madam\u{201d}, and 3.14159 is not 22/7.";

fn out(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}

fn quantize(model: &Path, to: &str, out: &Path, more: &[&str]) -> Value {
    let out = out.to_str().expect("UTF-8");
    run("quantize", model, &[&["--to", to, "--out", out, "--json"], more].concat()).json()
}

/// Greedy continuation of a golden prompt.
fn greedy(model: &Path, of: &str, more: &[&str]) -> Value {
    let (_dir, tokens) = scratch("ids.json", &json!(Golden::open(of).ids("seq2.input_ids")).to_string());
    let args = ["--tokens", &tokens, "--json", "--greedy", "--ignore-eos", "--max-tokens", "16"];
    run("generate", model, &[&args, more].concat()).json()["token_ids"].clone()
}

#[test]
fn int8_is_written_whole_and_stays_as_written() {
    let dir = TempDir::new().unwrap();
    for name in ["tiny-v2", "tiny-v3", "tiny-v3-fp8"] {
        let out = out(&dir, name);
        let written = quantize(&fixture(name), "int8", &out, &[]);
        let bits = written["bits_per_weight"].as_f64().unwrap();
        assert!((8.2..20.0).contains(&bits), "{name}: {bits}");
        // The fixtures' heads are no whole runs of 32 columns, so quantizing them at load differs there; a plan
        // laid over what is stored so already changes nothing.
        assert_eq!(greedy(&out, name, &[]), greedy(&out, name, &["--quant", "int8"]), "{name}");
        let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["quantization_config"]["quant_method"], "fathom", "{name}");
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            assert_eq!(
                std::fs::read(out.join(file)).unwrap(),
                std::fs::read(fixture(name).join(file)).unwrap(),
                "{name}"
            );
        }
        // What is in blocks already is copied.
        let again = dir.path().join(format!("{name}-again"));
        quantize(&out, "int8", &again, &[]);
        for file in ["model.safetensors", "config.json"] {
            assert!(
                std::fs::read(again.join(file)).unwrap() == std::fs::read(out.join(file)).unwrap(),
                "{name}"
            );
        }
    }
}

/// Random weights route near ties, and one expert that flips counts more than all rounding: these bounds
/// (about three times what was seen) catch damage, not a few per cent of quality.
#[test]
fn divergence_is_bounded_and_reported() {
    let dir = TempDir::new().unwrap();
    let (_text, text) = scratch("text", TEXT);
    for (name, to, file, most) in [
        ("tiny-v3", "int8", "v3-int8", 0.05),
        ("tiny-v3", "int4", "v3-int4", 1.0),
        ("tiny-v2", "int4", "v2-int4", 1.0),
        ("tiny-v2", "q8_0", "v2.gguf", 0.05),
        ("tiny-v3", "q4_k_m", "v3.gguf", 1.0),
    ] {
        let written = quantize(&fixture(name), to, &out(&dir, file), &["--report", &text]);
        let report = &written["report"];
        let number = |field: &str| report[field].as_f64().unwrap();
        assert!(number("mean_kl") > 0.0 && number("mean_kl") < most, "{file}: {report}");
        assert!(number("kl_99") >= number("mean_kl"), "{file}: {report}");
        assert!((0.3..=1.0).contains(&number("top1_agreement")), "{file}: {report}");
        assert_eq!(report["layer_errors"].as_array().unwrap().len(), 3, "{file}");
        assert_eq!(report["complete"], true);
        let tokens = run("score", &out(&dir, file), &["--file", &text, "--json"]).json();
        let (ours, its) = (&report["perplexity"]["result"], &tokens["perplexity"]);
        assert!((ours.as_f64().unwrap() / its.as_f64().unwrap() - 1.0).abs() < 1e-3, "{file}: {ours} {its}");
    }
}

#[test]
fn a_gguf_file_becomes_a_directory_and_a_gguf_file() {
    let dir = TempDir::new().unwrap();
    let (gguf, again, back) = (out(&dir, "a.gguf"), out(&dir, "b.gguf"), out(&dir, "back"));
    quantize(&fixture("tiny-v2"), "q8_0", &gguf, &[]);
    quantize(&gguf, "q8_0", &again, &[]);
    let read = |file: &Path| std::fs::read(file).unwrap();
    assert!(read(&gguf) == read(&again), "blocks are copied");
    quantize(&gguf, "q8_0", &back, &[]);
    let tokens = |model: &Path| run("tokenize", model, &["--text", TEXT]).ok().stdout;
    assert_eq!(tokens(&back), tokens(&fixture("tiny-v2")));
    assert_eq!(tokens(&gguf), tokens(&fixture("tiny-v2")));
    assert_eq!(greedy(&back, "tiny-v2", &[]).as_array().unwrap().len(), 16);
}

#[test]
fn calibration_is_kept_and_used() {
    let dir = TempDir::new().unwrap();
    let (_text, text) = scratch("text", TEXT);
    let model = fixture("tiny-v3");
    let kept = out(&dir, "importance.safetensors");
    let kept = kept.to_str().unwrap();
    quantize(&model, "q4_0", &out(&dir, "a"), &["--calibrate", &text, "--importance", kept]);
    quantize(&model, "q4_0", &out(&dir, "b"), &["--importance", kept]);
    quantize(&model, "q4_0", &out(&dir, "plain"), &[]);
    let read = |name: &str| std::fs::read(out(&dir, name).join("model.safetensors")).unwrap();
    assert!(read("a") == read("b"));
    assert!(read("a") != read("plain"));
}

#[test]
fn what_cannot_be_quantized() {
    let dir = TempDir::new().unwrap();
    let copy = Copy::of("tiny-v3");
    let model = copy.model();
    let at = |name: &str| out(&dir, name).to_str().unwrap().to_owned();
    let refuse = |to: &str, out: &str, more: &[&str], words: &[&str]| {
        run("quantize", &model, &[&["--to", to, "--out", out], more].concat()).refused(words);
    };
    refuse("int3", &at("x"), &[], &["int3", "q4_k_m", "int4-mixed"]);
    refuse("int8", &at("x.gguf"), &[], &["embed_tokens", "int8-g64", "q8_0"]);
    refuse("q8_0", model.to_str().unwrap(), &["--overwrite"], &["is the source"]);
    refuse("q8_0", &at("x"), &["--report", "/nowhere"], &["/nowhere"]);
    let empty = copy.file("empty");
    std::fs::write(&empty, "").unwrap();
    refuse("q8_0", &at("x"), &["--calibrate", empty.to_str().unwrap()], &["the text has 0 tokens"]);
    refuse("q8_0", &at("x"), &["--importance", empty.to_str().unwrap()], &["empty"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was left");

    for name in ["there", "there.gguf"] {
        run("quantize", &model, &["--to", "q8_0", "--out", &at(name)]).ok();
        refuse("q8_0", &at(name), &[], &["already exists", "--overwrite"]);
        run("quantize", &model, &["--to", "q8_0", "--out", &at(name), "--overwrite"]).ok();
    }
    // A GGUF file is a source too.
    let there = out(&dir, "there.gguf");
    let ran = run("quantize", &there, &["--to", "q4_0", "--out", &at("there.gguf"), "--overwrite"]);
    ran.refused(&["is the source"]);
}

/// `/dev/full` takes an open and refuses every byte, as a disk that fills up while it is written.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let file = out(&dir, "x.gguf");
    std::os::unix::fs::symlink("/dev/full", out(&dir, "x.gguf.partial")).unwrap();
    let mut run = command("quantize", &fixture("tiny-v3"));
    let ran = run.args(["--to", "q8_0", "--out"]).arg(&file).output().unwrap();
    let message = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{message}");
    assert!(message.contains("x.gguf") && message.contains("space"), "{message}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was left");
}
