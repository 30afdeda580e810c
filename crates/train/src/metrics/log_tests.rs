//! The log: what goes in comes out, whatever happened to its end.

use std::fs;

use super::*;
use crate::metrics::{Checkpoint, Git, Machine, Resume, Run, Sample, Skip, Step, Validation};

fn step(step: u64, loss: f64) -> Record {
    Record::Step(Box::new(Step { step, tokens: step * 1000, loss, lr: 1e-3, ..Step::default() }))
}

fn all_kinds() -> Vec<Record> {
    let machine =
        Machine { processor: "Zen".into(), threads: 2, peak_flops: Some(1.5e11), ..Machine::default() };
    let git = Some(Git { commit: "abc".into(), branch: "main".into(), changed: true });
    let full = Step {
        step: 1,
        loss: 0.1 + 0.2,
        mtp_loss: Some(5e-324),
        balance_loss: Some(1e-4),
        mfu: Some(0.41),
        memory_bytes: u64::MAX,
        max_violation: vec![0.5, f64::INFINITY],
        expert_load: Some(vec![vec![0.25, 0.75], vec![1.0, 0.0]]),
        ..Step::default()
    };
    vec![
        Record::Run(Box::new(Run {
            name: "a \"run\"\n".into(),
            config: "[optimizer]\nlr = 1e-3\n".into(),
            moe_layers: vec![1, 2],
            git: git.clone(),
            machine: machine.clone(),
            ..Run::default()
        })),
        Record::Step(Box::new(full)),
        Record::Validation(Validation { step: 1, loss: 3.25, bits_per_byte: None }),
        Record::Sample(Sample { step: 1, prompt: "Once".into(), text: "\u{2028}\0</script>".into() }),
        Record::Checkpoint(Checkpoint { step: 1, path: "checkpoints/step-1".into(), best: true }),
        Record::Resume(Resume { step: 1, path: "checkpoints/step-1".into(), git, machine }),
        Record::Skip(Skip { step: 2, reason: "loss is NaN in layer 3".into() }),
    ]
}

fn log_in(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join(FILE_NAME)
}

fn written(path: &Path, records: &[Record]) {
    let mut log = Log::open(path).unwrap();
    for record in records {
        log.append(record).unwrap();
    }
}

#[test]
fn every_kind_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_in(&dir);
    written(&path, &all_kinds());
    assert_eq!(Log::read(&path).unwrap(), all_kinds());
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), all_kinds().len(), "one line each");
}

#[test]
fn the_form_of_a_line_is_fixed() {
    let line = String::from_utf8(super::line(&step(7, f64::NAN))).unwrap();
    assert_eq!(
        line,
        "{\"kind\":\"step\",\"step\":7,\"tokens\":7000,\"loss\":\"NaN\",\"lr\":0.001,\"grad_norm\":0.0,\
         \"tokens_per_second\":0.0,\"memory_bytes\":0,\"seconds\":0.0}\n"
    );
}

#[test]
fn figures_that_are_not_finite_survive() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_in(&dir);
    written(&path, &[step(1, f64::NAN), step(2, f64::INFINITY), step(3, f64::NEG_INFINITY)]);
    let losses: Vec<f64> = Log::read(&path)
        .unwrap()
        .iter()
        .map(|record| match record {
            Record::Step(step) => step.loss,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(losses[0].is_nan());
    assert_eq!(losses[1..], [f64::INFINITY, f64::NEG_INFINITY]);
}

/// Cut anywhere, as a machine that goes down cuts: whole lines stay, and the log goes on behind them.
#[test]
fn a_torn_last_line_is_cut_off_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_in(&dir);
    let records = [step(1, 3.0), step(2, 2.0)];
    written(&path, &records);
    let whole = fs::read(&path).unwrap();
    let first = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    for cut in first..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        // Without its newline the second record is complete.
        let kept = if cut == whole.len() - 1 { 2 } else { 1 };
        assert_eq!(Log::read(&path).unwrap(), records[..kept], "cut at {cut}");
        written(&path, &[step(9, 1.0)]);
        let expected: Vec<Record> = records[..kept].iter().cloned().chain([step(9, 1.0)]).collect();
        assert_eq!(Log::read(&path).unwrap(), expected, "cut at {cut}");
    }
}

#[test]
fn a_torn_line_longer_than_a_block_and_zeros_of_a_lost_page_are_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_in(&dir);
    for torn in [format!("{{\"kind\":\"sample\",\"text\":\"{}", "x".repeat(200_000)), "\0".repeat(5000)] {
        fs::write(&path, [super::line(&step(1, 3.0)), torn.into_bytes()].concat()).unwrap();
        written(&path, &[step(2, 2.0)]);
        assert_eq!(Log::read(&path).unwrap(), [step(1, 3.0), step(2, 2.0)]);
    }
}

#[test]
fn a_log_is_cut_back_to_the_step_of_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_in(&dir);
    let mut log = Log::open(&path).unwrap();
    for record in all_kinds().into_iter().chain([step(3, 1.0)]) {
        log.append(&record).unwrap();
    }
    assert_eq!(log.truncate_to(1).unwrap(), 2);
    log.append(&step(2, 1.5)).unwrap();
    let expected: Vec<Record> = all_kinds()[..6].iter().cloned().chain([step(2, 1.5)]).collect();
    assert_eq!(Log::read(&path).unwrap(), expected);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the log");
}

#[test]
fn a_damaged_line_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = log_in(&dir);
    let cases =
        [("{\"kind\":\"steep\"}", "unknown variant `steep`"), ("", "EOF"), ("{\"kind\":\"skip\"}", "step")];
    for (bad, reason) in cases {
        fs::write(&path, [super::line(&step(1, 3.0)), format!("{bad}\n").into_bytes()].concat()).unwrap();
        let message = Log::read(&path).unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl, line 2") && message.contains(reason), "{message}");
    }
}
