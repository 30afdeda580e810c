//! `fathom train`, `sft`, `merge` and `eval` as programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn fathom(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom"));
    command.args(arguments);
    command
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A run file and conversations in `scratch`: the fixture, fine-tuned.
fn prepare(scratch: &Path) -> PathBuf {
    let line = |a: u32| {
        let (b, sum) = (30 - a, 30);
        format!(
            r#"{{"messages": [{{"role": "user", "content": "{a}+{b}"}}, {{"role": "assistant", "content": "{sum}"}}]}}"#
        )
    };
    fs::write(scratch.join("chat.jsonl"), (0..30).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    let text = format!(
        "out = \"out\"\nsteps = 3\ndtype = \"f32\"\nthreads = 2\n[model]\nfrom = {:?}\n[data]\npath = \"chat.jsonl\"\nvalidation = 0.2\n\
         [batch]\nsequences = 2\nseq_len = 32\n[schedule]\nkind = \"constant\"\nlr = 1e-3\n",
        fixture("tiny-v3")
    );
    let file = scratch.join("run.toml");
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn a_run_ends_in_a_model_that_generates_and_is_judged() {
    let scratch = tempfile::tempdir().unwrap();
    let file = prepare(scratch.path());
    let run = |arguments: &[&str]| fathom(&["sft", "--config"]).arg(&file).args(arguments).output().unwrap();
    let dry = run(&["--dry-run"]);
    succeeds(&dry);
    assert!(String::from_utf8_lossy(&dry.stderr).contains("3 steps"));
    let report: serde_json::Value = serde_json::from_str(&succeeds(&run(&["--json"]))).unwrap();
    assert_eq!((&report["finished"], &report["step"]), (&true.into(), &3.into()));
    let checkpoint = report["checkpoint"].as_str().unwrap();
    assert!(fs::read_to_string(scratch.path().join("out/report.html")).unwrap().contains("<html"));
    let generated = fathom(&["generate", "--prompt", "1+29", "--greedy", "--max-tokens", "3", "--json"])
        .args(["--model", checkpoint])
        .output();
    succeeds(&generated.unwrap());
    let judged = fathom(&["eval", "--task", "arithmetic", "--count", "3", "--max-tokens", "4", "--json"])
        .args(["--model", checkpoint])
        .output();
    let judged: serde_json::Value = serde_json::from_str(&succeeds(&judged.unwrap())).unwrap();
    assert_eq!((&judged["of"], &judged["right"]), (&3.into(), &0.into()));
    let again = run(&[]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("already holds a run: give --resume"));
    let longer = succeeds(&run(&["--resume", "--set", "steps=4"]));
    assert!(longer.ends_with("step-00000004"), "{longer}");
}

#[cfg(unix)]
#[test]
fn a_scheduler_that_ends_a_run_gets_a_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    let file = prepare(scratch.path());
    let mut child = fathom(&["sft", "--set", "steps=1000000", "--config"])
        .arg(&file)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let metrics = scratch.path().join("out/metrics.jsonl");
    let started = Instant::now();
    let steps = || fs::read_to_string(&metrics).unwrap_or_default().matches("\"kind\":\"step\"").count();
    while steps() < 3 {
        assert!(started.elapsed() < Duration::from_secs(120), "no steps were made");
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let latest = fs::read_to_string(scratch.path().join("out/checkpoints/latest")).unwrap();
    let step: u64 = latest.trim().strip_prefix("step-").unwrap().parse().unwrap();
    assert!(step >= 3 && step as usize == steps(), "{latest}");
}

#[test]
fn adapters_are_merged_into_a_model() {
    let scratch = tempfile::tempdir().unwrap();
    let file = prepare(scratch.path());
    let lora = "lora={rank=2,target_modules=[\"o_proj\"]}";
    let adapter = succeeds(&fathom(&["sft", "--set", lora, "--config"]).arg(&file).output().unwrap());
    let (out, model) = (scratch.path().join("merged"), fixture("tiny-v3"));
    let merge = || {
        let mut command = fathom(&["merge", "--adapter", &adapter, "--model"]);
        command.arg(&model).arg("--out").arg(&out).output().unwrap()
    };
    let merged = merge();
    succeeds(&merged);
    assert!(String::from_utf8_lossy(&merged.stderr).contains("3 weights changed"));
    let generated =
        fathom(&["generate", "--prompt", "1", "--greedy", "--max-tokens", "2", "--model"]).arg(&out).output();
    succeeds(&generated.unwrap());
    let twice = merge();
    assert!(!twice.status.success() && String::from_utf8_lossy(&twice.stderr).contains("already"));
}

#[test]
fn bad_runs_are_one_clear_error() {
    let scratch = tempfile::tempdir().unwrap();
    let file = prepare(scratch.path());
    for (arguments, expected) in [
        (&["--set", "batch.seq=1"][..], "batch.seq: unknown field `seq`"),
        (&["--set", "batch.seq_len=100000"], "beyond the model's max_position_embeddings"),
        (&["--set", "data.path=nowhere"], "nowhere does not exist"),
        (&["--set", "out"], "should look like"),
        (&["--resume"], "no complete checkpoint to resume from"),
    ] {
        let output = fathom(&["sft", "--config"]).arg(&file).args(arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            message.contains(expected) && message.trim().lines().count() == 1,
            "{arguments:?}: {message}"
        );
        assert!(!scratch.path().join("out/metrics.jsonl").exists());
    }
}
