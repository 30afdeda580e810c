//! Broken models and impossible wishes: one error line that names the place and the mend, exit code 1.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fathom::{Copy, fixture, run, scratch};

/// Breaks a copy of tiny-v2-lite (one float32 file) and demands that `generate` says so.
#[track_caller]
fn check(break_it: impl FnOnce(&Copy), words: &[&str]) {
    let copy = Copy::of("tiny-v2-lite");
    break_it(&copy);
    run("generate", &copy.model(), &["--prompt", "Hi", "--max-tokens", "1"]).refused(words);
}

fn config(copy: &Copy, field: &str, value: impl Into<Value>) {
    copy.edit_json("config.json", |config| config[field] = value.into());
}

fn offset(header: &Value, tensor: &str) -> usize {
    header[tensor]["data_offsets"][0].as_u64().unwrap() as usize
}

#[test]
fn folders() {
    let empty = TempDir::new().unwrap();
    let nowhere = empty.path().join("nowhere");
    for command in [&["generate", "--prompt", "Hi"][..], &["chat"], &["score", "--file", "x"]] {
        run(command[0], &nowhere, &command[1..]).refused(&["nowhere", "directory of a Hugging Face model"]);
        run(command[0], empty.path(), &command[1..]).refused(&["config.json"]);
    }
    let weights = fixture("tiny-v2-lite").join("model.safetensors");
    for command in [
        &["generate", "--prompt", "Hi"][..],
        &["chat"],
        &["score", "--file", "x"],
        &["tokenize", "--text", "x"],
        &["logits", "--tokens", "x", "--out", "y"],
        &["inspect"],
        &["bench"],
    ] {
        run(command[0], &weights, &command[1..]).refused(&[
            "model.safetensors is a file",
            "directory",
            "config.json",
        ]);
    }
    run("tokenize", &nowhere, &["--text", "x"]).refused(&["nowhere", "tokenizer.json"]);
}

#[test]
fn configurations() {
    check(
        |copy| config(copy, "model_type", "llama"),
        &["config.json", "\"llama\"", "deepseek_v2", "deepseek_v3"],
    );
    check(|copy| config(copy, "model_type", "deepseek_v32"), &["\"deepseek_v32\""]);
    check(|copy| config(copy, "topk_method", "best"), &["config.json", "topk_method", "best"]);
    check(|copy| config(copy, "hidden_size", -1), &["config.json", "hidden_size", "-1"]);
    check(|copy| config(copy, "kv_lora_rank", Value::Null), &["config.json", "kv_lora_rank"]);
    check(|copy| std::fs::write(copy.file("config.json"), "{").unwrap(), &["config.json", "JSON"]);
    check(|copy| config(copy, "num_hidden_layers", 4), &["model.layers.3"]);
}

#[test]
fn weights() {
    check(
        |copy| {
            let file = std::fs::OpenOptions::new().write(true).open(copy.file("model.safetensors")).unwrap();
            file.set_len(file.metadata().unwrap().len() - 100).unwrap();
        },
        &["model.safetensors", "truncated", "expected", "download"],
    );
    check(|copy| std::fs::remove_file(copy.file("model.safetensors")).unwrap(), &["model.safetensors"]);
    check(
        |copy| {
            std::fs::remove_file(copy.file("model.safetensors")).unwrap();
            std::fs::create_dir(copy.file("model.safetensors")).unwrap();
        },
        &["model.safetensors is a directory, expected a file"],
    );
    check(
        |copy| copy.edit_weights(|header, _| header["lm_head.weight"]["shape"] = json!([64, 512])),
        &["lm_head.weight", "[512, 64]", "[64, 512]"],
    );
    check(
        |copy| {
            copy.edit_weights(|header, values| {
                let end = values.len();
                values.extend([0; 4]);
                header["model.surprise"] =
                    json!({ "dtype": "F32", "shape": [1], "data_offsets": [end, end + 4] });
            });
        },
        &["model.surprise", "config.json"],
    );
    check(
        |copy| copy.edit_weights(|header, _| header["model.norm.weight"]["dtype"] = "I32".into()),
        &["model.norm.weight", "I32"],
    );
    for tensor in ["model.norm.weight", "model.layers.1.mlp.experts.3.up_proj.weight"] {
        check(
            |copy| {
                copy.edit_weights(|header, values| {
                    let at = offset(header, tensor) + 8;
                    values[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
                });
            },
            &["model.safetensors", tensor, "NaN"],
        );
    }
}

#[test]
fn shards() {
    let copy = Copy::of("tiny-v3");
    std::fs::remove_file(copy.file("model-00002-of-00002.safetensors")).unwrap();
    run("generate", &copy.model(), &["--prompt", "Hi"]).refused(&[
        "model.safetensors.index.json",
        "model-00002-of-00002.safetensors",
        "download",
    ]);
}

#[test]
fn tokenizers() {
    check(
        |copy| std::fs::remove_file(copy.file("tokenizer.json")).unwrap(),
        &["no tokenizer", "tokenizer.json"],
    );
    check(|copy| std::fs::write(copy.file("tokenizer.json"), "{}").unwrap(), &["tokenizer.json"]);
    let no_template =
        |copy: &Copy| copy.edit_json("tokenizer_config.json", |c| c["chat_template"] = Value::Null);
    check(no_template, &["no chat template", "--raw"]);
    let bad_template =
        |copy: &Copy| copy.edit_json("tokenizer_config.json", |c| c["chat_template"] = "{% if".into());
    check(bad_template, &["tokenizer_config.json", "template"]);
    check(
        |copy| copy.edit_json("generation_config.json", |c| c["temperature"] = "hot".into()),
        &["generation_config.json", "temperature", "hot"],
    );
    let too_hot = |copy: &Copy| copy.edit_json("generation_config.json", |c| c["temperature"] = 5.into());
    check(too_hot, &["generation_config.json", "`temperature` is 5", "correct it", "--temperature"]);
    let empty_template = |copy: &Copy| {
        copy.edit_json("tokenizer_config.json", |c| c["chat_template"] = "{% if false %}{% endif %}".into())
    };
    check(empty_template, &["the prompt is empty", "chat template", "--raw"]);
    let no_vocabulary = |copy: &Copy| {
        copy.edit_json("tokenizer.json", |t| {
            (t["model"]["vocab"], t["model"]["merges"], t["added_tokens"]) =
                (json!({}), json!([]), json!([]));
        });
    };
    check(no_vocabulary, &["tokenizer.json", "model.vocab", "got none"]);

    let copy = Copy::of("tiny-v2-lite");
    std::fs::remove_file(copy.file("tokenizer.json")).unwrap();
    let (_dir, tokens) = scratch("ids.json", "[0, 5]");
    run("generate", &copy.model(), &["--tokens", &tokens]).refused(&["tokenizer.json", "--json"]);
}

#[test]
fn prompts() {
    let model = fixture("tiny-v2-lite");
    let refuse = |args: &[&str], words: &[&str]| run("generate", &model, args).refused(words);
    refuse(&["--prompt", ""], &["the prompt is empty"]);
    refuse(&[], &["the prompt is empty"]);
    refuse(&["--file", "/no/such/file"], &["cannot read /no/such/file"]);
    refuse(&["--raw", "--prompt", &"word ".repeat(2600)], &["2560", "max_position_embeddings", "shorten"]);
    refuse(&["--prompt", "Hi there", "--context", "3"], &["together may have 3", "2560"]);
    refuse(&["--prompt", "Hi", "--context", "3000"], &["3000", "2560"]);
    refuse(&["--prompt", "Hi", "--top-p", "3"], &["`top_p` is 3", "allowed"]);
    refuse(&["--prompt", "Hi", "--temperature", "nan"], &["`temperature` is NaN"]);
    refuse(&["--prompt", "Hi", "--logit-bias", "9999=1"], &["logit_bias", "9999", "512"]);
    refuse(&["--prompt", "Hi", "--max-tokens", "0"], &["max_tokens"]);
    refuse(&["--prompt", "Hi", "--threads", "99999"], &["99999 threads", "1024", "--threads"]);
}

#[test]
fn token_files() {
    let model = fixture("tiny-v2-lite");
    let out = TempDir::new().unwrap();
    let out = out.path().join("out.safetensors");
    let out = out.to_str().unwrap();
    let too_long = json!([vec![5; 2561]]).to_string();
    for (content, words) in [
        ("[[0, 5", &["ids.json", "JSON"][..]),
        ("{\"ids\": [1]}", &["ids.json", "expected a list"]),
        ("[0, -5]", &["ids.json", "place 1", "-5"]),
        ("[0, 1.5]", &["ids.json", "place 1", "1.5"]),
        ("[0, \"x\"]", &["ids.json", "place 1", "\"x\""]),
        ("[0, 17, 512]", &["512"]),
        ("[]", &["ids.json"]),
        ("[[]]", &["no tokens", "empty"]),
        (&too_long, &["2561", "2560"]),
    ] {
        let (_dir, tokens) = scratch("ids.json", content);
        // Either command may have words of its own for an empty list.
        let words_for = |command: &str| match words {
            [logits, generate] if *logits == "no tokens" => {
                vec![if command == "logits" { *logits } else { *generate }]
            }
            words => words.to_vec(),
        };
        run("generate", &model, &["--tokens", &tokens, "--json"]).refused(&words_for("generate"));
        run("logits", &model, &["--tokens", &tokens, "--out", out]).refused(&words_for("logits"));
    }
    let (_dir, two) = scratch("ids.json", "[[0], [5]]");
    run("generate", &model, &["--tokens", &two, "--json"]).refused(&["ids.json", "one list", "got 2"]);
    let (dir, tokens) = scratch("ids.json", "[[0, 5]]");
    for path in ["/no/such/folder/out.safetensors", dir.path().to_str().unwrap()] {
        run("logits", &model, &["--tokens", &tokens, "--out", path]).refused(&[path]);
    }
}
