//! `fathom inspect` and `fathom synth` as a person runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn fathom(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fathom")).args(args).output().expect("the binary runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("scratch paths are text")
}

/// What a successful run printed.
#[track_caller]
fn ok(args: &[&str]) -> String {
    let output = fathom(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// A run that must fail with `code` and one error that says all of `parts`.
#[track_caller]
fn refused(args: &[&str], code: i32, parts: &[&str]) {
    let output = fathom(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert!(errors.starts_with("error: ") && !errors.contains("panicked"), "{args:?}: {errors}");
    for part in parts {
        assert!(errors.contains(part), "{args:?}: {errors:?} lacks {part:?}");
    }
}

/// A row of a table, its cells joined by one space.
#[track_caller]
fn row(table: &str, first: &str) -> String {
    let line = table.lines().find(|line| line.trim_start().starts_with(first));
    let line = line.unwrap_or_else(|| panic!("{table}\nhas no row {first:?}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn inspect_knows_the_published_figures() {
    let v3 = ok(&["inspect", "--config", "v3", "--context", "131072"]);
    assert!(v3.starts_with("v3: deepseek_v3, 671.03B parameters, 36.63B active per token"), "{v3}");
    for (first, want) in [
        ("MLA", "MLA 35,136 70.3 kB 1.8 %"),
        ("MHA", "MHA 1,998,848 4.0 MB 100.0 %"),
        ("and MTP layers", "and MTP layers 11.61B 688.1M"),
        ("decode at 131,072", "decode at 131,072 73.25 G 2.23 T 2.30 T absorbed"),
    ] {
        let got = row(&v3, first);
        assert!(got.starts_with(want), "{got:?}, expected {want:?}");
    }
    let lite = ok(&["inspect", "--config", "v2-lite"]);
    assert!(lite.starts_with("v2-lite: deepseek_v2, 15.71B parameters, 2.45B active"), "{lite}");
    assert_eq!(row(&lite, "MLA"), "MLA 15,552 31.1 kB 14.1 %");
    assert!(!lite.contains("MTP"), "{lite}");
}

#[test]
fn inspect_checks_what_is_on_disk() {
    for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-fp8", "tiny-v3-mtp"] {
        let table = ok(&["inspect", "--model", text(&fixture(name))]);
        assert!(table.contains("All tensors have the names"), "{table}");
    }
    let shards = ok(&["inspect", "--model", text(&fixture("tiny-v3"))]);
    assert!(row(&shards, "On disk").starts_with("On disk, 2 files"), "{shards}");
    let fp8 = ok(&["inspect", "--model", text(&fixture("tiny-v3-fp8"))]);
    assert!(row(&fp8, "F8_E4M3").ends_with('%'), "{fp8}");
}

#[test]
fn inspect_prints_json() {
    let args = ["inspect", "--json", "--dtype", "f32", "--batch", "3", "--context", "100", "--model"];
    let json = ok(&[&args[..], &[text(&fixture("tiny-v3-mtp"))]].concat());
    let value: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["config"]["model_type"], "deepseek_v3");
    assert_eq!(value["kv_cache"]["mla"]["elements"], 3 * (32 + 16));
    assert_eq!(value["kv_cache"]["mla"]["bytes"], 4 * 3 * (32 + 16));
    assert_eq!(value["memory"]["cache"], 4 * 3 * (32 + 16) * 100 * 3);
    assert_eq!(value["stored"]["mtp"], true);
    let parts = value["parameters"]["parts"].as_array().expect("a list").iter();
    let sum: u64 = parts.map(|part| part["total"].as_u64().expect("a count")).sum();
    assert_eq!(value["parameters"]["total"], sum);
    assert!(value["flops"]["decode"]["total"].as_f64() > value["flops"]["decode_first"]["total"].as_f64());
}

#[test]
fn inspect_refuses_by_name() {
    let scratch = tempfile::tempdir().expect("a directory");
    let missing = scratch.path().join("nowhere");
    refused(&["inspect", "--model", text(&missing)], 1, &["nowhere", "config.json"]);
    refused(&["inspect", "--config", "v9"], 1, &["v9", "v2-lite, v2, v3"]);
    refused(&["inspect"], 2, &["--model", "--config"]);
    refused(&["inspect", "--config", "v3", "--model", text(&missing)], 2, &["cannot be used with"]);
    refused(&["inspect", "--config", "v3", "--context", "163841"], 1, &["163840", "max_position_embeddings"]);
    refused(&["inspect", "--config", "v3", "--context", "0"], 2, &["--context"]);

    let copy = |config: &str, name: &str| {
        let dir = scratch.path().join(name);
        fs::create_dir(&dir).expect("a directory");
        fs::write(dir.join("config.json"), config).expect("written");
        fs::copy(
            fixture("tiny-v3").join("model.safetensors.index.json"),
            dir.join("model.safetensors.index.json"),
        )
        .expect("copied");
        for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
            fs::copy(fixture("tiny-v3").join(shard), dir.join(shard)).expect("copied");
        }
        dir
    };
    let config = fs::read_to_string(fixture("tiny-v3").join("config.json")).expect("readable");
    let deeper = copy(&config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"), "deeper");
    refused(&["inspect", "--model", text(&deeper)], 1, &["no tensor", "model.layers.3."]);
    let shallower =
        copy(&config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2"), "shallower");
    refused(&["inspect", "--model", text(&shallower)], 1, &["does not have", "model.layers.2."]);
    let llama = copy(&config.replace("deepseek_v3", "llama"), "llama");
    refused(&["inspect", "--model", text(&llama)], 1, &["llama", "deepseek_v3"]);
    let shard = copy(&config, "shard");
    fs::remove_file(shard.join("model-00002-of-00002.safetensors")).expect("removed");
    refused(&["inspect", "--model", text(&shard)], 1, &["model-00002-of-00002.safetensors"]);
}

#[test]
fn synth_writes_what_inspect_accepts() {
    let scratch = tempfile::tempdir().expect("a directory");
    let out = scratch.path().join("model");
    let (config, tokenizer) = (fixture("tiny-v3-fp8").join("config.json"), fixture("tiny-v2"));
    let mut args = vec!["synth", "--config", text(&config), "--layers", "2", "--seed", "5"];
    args.extend(["--shard-size", "200KB", "--tokenizer", text(&tokenizer), "--out", text(&out)]);
    let said = ok(&args);
    assert!(said.contains("deepseek_v3 with 2 layers"), "{said}");
    let table = ok(&["inspect", "--model", text(&out)]);
    assert_eq!(row(&table, "num_hidden_layers").split(' ').nth(1), Some("2"), "{table}");
    for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        let read = |dir: &Path| fs::read(dir.join(file)).expect("copied");
        assert!(read(&out) == read(&tokenizer), "{file}");
    }
    let generation = fs::read_to_string(out.join("generation_config.json")).expect("written");
    let generation: Value = serde_json::from_str(&generation).expect("JSON");
    assert_eq!(generation["eos_token_id"], 1);

    // Again: refused, unless told to overwrite; then the same seed gives the same bytes.
    let first = fs::read(out.join("model-00001-of-00003.safetensors")).expect("written");
    refused(&args, 1, &["already exists", "--overwrite"]);
    args.push("--overwrite");
    ok(&args);
    assert!(first == fs::read(out.join("model-00001-of-00003.safetensors")).expect("written"));
}

#[test]
fn synth_refuses_by_name() {
    let scratch = tempfile::tempdir().expect("a directory");
    let out = scratch.path().join("model");
    let config = fixture("tiny-v3").join("config.json");
    let (config, to) = (text(&config), text(&out));
    let synth = |more: &[&str], code: i32, parts: &[&str]| {
        refused(&[&["synth"], more].concat(), code, parts);
        assert!(!out.exists(), "{more:?} left something");
    };
    synth(&["--config", "v9", "--out", to], 1, &["v9", "v2-lite, v2, v3"]);
    for layers in ["0", "4"] {
        let args = ["--config", config, "--layers", layers, "--out", to];
        synth(&args, 1, &["--layers", "num_hidden_layers", "from 1 to 3"]);
    }
    synth(&["--config", config, "--shard-size", "many", "--out", to], 2, &["--shard-size", "many"]);
    let nowhere = scratch.path().join("nowhere");
    synth(&["--config", config, "--tokenizer", text(&nowhere), "--out", to], 1, &["nowhere"]);
    synth(&["--config", config], 2, &["--out"]);
    synth(&["--config", config, "--threads", "99999", "--out", to], 1, &["99999", "--threads"]);
    // 300 TB: more than any test machine's disk, and refused before anything is written.
    let huge = scratch.path().join("huge.json");
    let mut text_of = fs::read_to_string(config).expect("readable");
    for field in ["\"hidden_size\": 136", "\"moe_intermediate_size\": 24"] {
        let name = field.split(' ').next().expect("a field");
        text_of = text_of.replace(field, &format!("{name} 1048576"));
    }
    fs::write(&huge, text_of).expect("written");
    synth(&["--config", text(&huge), "--out", to], 1, &["not enough space", "GB needed"]);

    let file = scratch.path().join("file");
    fs::write(&file, "not a directory").expect("written");
    refused(
        &["synth", "--config", config, "--out", text(&file.join("model"))],
        1,
        &["cannot create", "file"],
    );
}

/// Ctrl-C while a larger model is written: exit 130 and nothing left.
#[test]
#[cfg(unix)]
fn synth_cleans_up_after_ctrl_c() {
    let scratch = tempfile::tempdir().expect("a directory");
    let out = scratch.path().join("model");
    let mut child = Command::new(env!("CARGO_BIN_EXE_fathom"))
        .args(["synth", "--config", "v2-lite", "--layers", "1", "--out", text(&out)])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let started = std::time::Instant::now();
    while !out.join("config.json.partial").exists() && started.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(kill.success(), "the child is still running");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert!(!out.exists(), "{:?}", fs::read_dir(&out).map(Iterator::count));
}
