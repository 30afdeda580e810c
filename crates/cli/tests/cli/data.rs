//! `fathom data prepare` and `inspect`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fathom::{Ran, fixture};

fn data(args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom"));
    command.arg("data").args(args).env_remove("FATHOM_LOG").env("NO_COLOR", "1");
    Ran::from(command.stdin(Stdio::null()).output().expect("the binary starts"))
}

/// A sentence that shares next to nothing with another number's.
fn sentence(number: u64) -> String {
    let word = |at: u64| format!("w{}", (number * 64 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48);
    (0..40).map(word).collect::<Vec<_>>().join(" ")
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| json!({ "text": sentence(number), "id": number }).to_string() + "\n").collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Four files in four ways, with an exact duplicate, a near one, and a contaminated document.
fn corpus() -> TempDir {
    let root = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(root.path().join(name), bytes).unwrap();
    write("a.jsonl", lines(0..50).as_bytes());
    write("b.jsonl.gz", &gzip(&lines(100..150)));
    write("c.jsonl.zst", &zstd::encode_all(lines(200..250).as_bytes(), 3).unwrap());
    let planted =
        [sentence(7), sentence(120).replacen(' ', " changed ", 1), format!("{} and more", sentence(900))];
    let own: Vec<String> = (300..330).map(sentence).collect();
    write("d.txt", [&own[..], &planted].concat().join("\n\n").as_bytes());
    write("asked.jsonl", format!("{}\n", json!({ "question": sentence(900) })).as_bytes());
    write(
        "data.toml",
        br#"
out = "out"
seed = 9
[[source]]
name = "lines"
license = "CC0"
paths = ["*.jsonl", "*.jsonl.*"]
[[source]]
name = "text"
paths = ["d.txt"]
documents = "paragraph"
[decontaminate]
benchmark = [{ name = "asked", paths = ["asked.jsonl"], fields = ["question"] }]
[tokenizer]
vocab_size = 500
[pack]
validation = 0.1
[fill_in_the_middle]
rate = 0.3
"#,
    );
    root
}

/// All files of a dataset but the report, whose times differ.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    entries
        .filter(|path| !path.ends_with("report.json"))
        .map(|path| (name(&path), fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn a_corpus_becomes_a_dataset_in_one_run_or_in_many() {
    let root = corpus();
    let path = |name: &str| root.path().join(name).to_string_lossy().into_owned();
    let config = path("data.toml");
    // The benchmark lies beside the sources and matches their pattern.
    let own = "source.0.paths=[\"a.jsonl\", \"b.jsonl.gz\", \"c.*\"]";
    let prepare = |args: &[&str]| data(&[&["prepare", "--config", &config, "--set", own], args].concat());
    let report = prepare(&["--json"]).json();
    let total = &report["total"];
    assert_eq!((&total["files"], &total["counts"]["documents_in"]), (&json!(4), &json!(183)));
    let left_out = [&total["counts"]["contaminated"], &total["exact_duplicates"], &total["near_duplicates"]];
    assert_eq!(left_out, [&json!(1); 3], "{total}");
    let gaps = total["counts"]["fill_in_the_middle"].as_u64().unwrap();
    assert!((25..80).contains(&gaps), "{gaps} of 182");
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(path("out/report.json")).unwrap()).unwrap(), report);

    prepare(&["--set", "out=array", "--task", "0", "--tasks", "3"]).refused(&["--only-tokenizer"]);
    prepare(&["--set", "out=array", "--only-tokenizer"]).ok();
    for task in ["2", "0", "1"] {
        prepare(&["--set", "out=array", "--set", "threads=1", "--task", task, "--tasks", "3"]).ok();
    }
    prepare(&["--set", "out=array", "--finish"]).ok();
    assert_eq!(files(&root.path().join("out")), files(&root.path().join("array")));

    let seen = data(&["inspect", &path("out"), "--json", "--verify", "--show", "200"]).json();
    assert_eq!((&seen["masked"], &seen["tokenizer"]["vocab_size"]), (&json!(false), &json!(500)));
    assert_eq!(seen["train"]["tokens"], total["train_tokens"]);
    assert_eq!(seen["sources"][0]["license"], "CC0");
    let shown = seen["documents"].as_array().unwrap();
    assert_eq!(shown.len() as u64, total["train_documents"].as_u64().unwrap());
    let starts =
        |text: &str| shown.iter().filter(|shown| shown["text"].as_str().unwrap().starts_with(text)).count();
    assert_eq!(starts("<｜begin▁of▁sentence｜>"), shown.len());
    assert!(starts("<｜begin▁of▁sentence｜><｜fim▁begin｜>") > 20);
    let told = data(&["inspect", &path("out"), "--show", "1"]).ok().stdout;
    assert!(told.contains("bytes/token") && told.contains("CC0") && told.contains("── document 0"), "{told}");
}

#[test]
fn what_cannot_be_prepared_is_refused_in_one_line() {
    let root = corpus();
    let config = root.path().join("data.toml").to_string_lossy().into_owned();
    let prepare = |args: &[&str]| data(&[&["prepare", "--config", &config], args].concat());
    prepare(&["--set", "pack.shards=3"]).refused(&["data.toml", "pack", "`shards`"]);
    prepare(&["--set", "source.0.paths=[\"*.gz2\"]"]).refused(&["\"lines\"", "*.gz2"]);
    prepare(&[]).refused(&["asked.jsonl, line 1", "no field `text`", "skip"]);
    prepare(&["--task", "3", "--tasks", "3"]).refused(&["task 3 of 3"]);
    fs::write(root.path().join("b.jsonl.gz"), &gzip(&lines(0..50))[..300]).unwrap();
    prepare(&["--set", "source.0.paths=[\"b.*\"]"]).refused(&["b.jsonl.gz"]);
    assert!(!root.path().join("out/dataset.json").exists());
    data(&["prepare", "--config", "nowhere.toml"]).refused(&["nowhere.toml"]);
    data(&["inspect", &root.path().join("out").to_string_lossy()]).refused(&["dataset.json"]);
    let tokenizer = format!("tokenizer={{ path = {:?} }}", fixture("tiny-v3"));
    let all =
        ["--set", &tokenizer, "--set", "source.0.paths=[\"a.jsonl\"]", "--set", "fill_in_the_middle.rate=0"];
    prepare(&all).ok();
    prepare(&all).refused(&["dataset.json", "already exists"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_one_error_and_no_dataset() {
    let root = corpus();
    let config = root.path().join("data.toml").to_string_lossy().into_owned();
    let script = "ulimit -f 8; trap '' XFSZ; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_fathom"), "data", "prepare", "--config", &config]);
    command.args(["--set", "source.0.paths=[\"a.jsonl\"]"]).stdin(Stdio::null());
    Ran::from(command.output().expect("a shell")).refused(&["cannot write", "out"]);
    assert!(!root.path().join("out/dataset.json").exists());
}
