//! The report as a whole: it stands alone, stays small, and no run breaks it.

use std::fs;

use super::synthetic::{Shape, run};
use super::*;
use crate::metrics::{Log, Record, Run, Sample, Skip, Step, Validation};

fn report(records: &[Record]) -> String {
    let dir = tempfile::tempdir().unwrap();
    report_in(dir.path(), records)
}

fn report_in(dir: &Path, records: &[Record]) -> String {
    let mut log = Log::open(&dir.join(FILE_NAME)).unwrap();
    for record in records {
        log.append(record).unwrap();
    }
    let path = write(dir).unwrap();
    fs::read_to_string(path).unwrap()
}

/// The numbers in the page, as the script gets them.
fn data(html: &str) -> serde_json::Value {
    let start = html.find("id=\"data\">").expect("data") + "id=\"data\">".len();
    let end = start + html[start..].find("</script>").expect("end of data");
    serde_json::from_str(&html[start..end]).unwrap()
}

fn titles(html: &str) -> Vec<String> {
    let data = data(html);
    data["charts"].as_array().unwrap().iter().map(|chart| chart["id"].as_str().unwrap().to_owned()).collect()
}

/// To look at it: `FATHOM_REPORT_DIR=/tmp/run cargo test -p fathom-train a_realistic_run` and open the page.
#[test]
fn a_realistic_run_has_everything_and_needs_nothing() {
    let records = run(Shape { steps: 2400, moe_layers: 7, experts: 64 });
    let html = match std::env::var_os("FATHOM_REPORT_DIR") {
        Some(dir) => {
            fs::create_dir_all(&dir).unwrap();
            let _ = fs::remove_file(Path::new(&dir).join(FILE_NAME));
            report_in(Path::new(&dir), &records)
        }
        None => report(&records),
    };
    assert_eq!(
        titles(&html),
        ["loss", "bits", "lr", "grad", "balance", "violation", "speed", "mfu", "memory"]
    );
    for expected in [
        "<h1>stories-26m-aux-free</h1>",
        "Validation loss",
        "171 M",
        "step 2,400 of 2,400",
        "Expert load",
        "AMD EPYC 7B13",
        "kind = &quot;muon&quot;",
        "fb48622c0ffee5eed",
        "the gradient norm is 48.1",
        "&lt;b&gt;hello&lt;/b&gt;",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
    for outside in ["http://", "https://", "src=", "href=", "@import", "url("] {
        let rest = html.replace("http://www.w3.org/2000/svg", "").replace("url(#", "");
        assert!(!rest.contains(outside), "the page reaches for {outside}");
    }
}

#[test]
fn a_long_run_of_a_large_model_stays_below_a_megabyte() {
    let mut records = run(Shape { steps: 12, moe_layers: 58, experts: 256 });
    records.extend((13..60_000).map(|number| {
        let wave = (number as f64).sin();
        Record::Step(Box::new(Step {
            step: number,
            tokens: number << 20,
            loss: 1.234_567 + wave,
            mtp_loss: Some(2.345_678 + wave),
            balance_loss: Some(1.23e-7 * (2.0 + wave)),
            lr: 1.23e-4,
            grad_norm: 2.0 + wave,
            tokens_per_second: 1.2e6 + wave,
            mfu: Some(0.3 + wave / 10.0),
            memory_bytes: 123_456_789 * number,
            seconds: number as f64,
            max_violation: vec![0.5 + wave / 3.0; 3],
            expert_load: None,
        }))
    }));
    records
        .extend((0..300).map(|step| {
            Record::Sample(Sample { step, prompt: "'".repeat(9000), text: "<".repeat(100_000) })
        }));
    records.extend((0..300).map(|step| Record::Skip(Skip { step, reason: "&".repeat(9000) })));
    records.push(Record::Run(Box::new(Run { config: "\"".repeat(500_000), ..Run::default() })));
    let html = report(&records);
    assert!(html.len() < 1_000_000, "{}", html.len());
    assert_eq!(data(&html)["heat"]["layers"].as_array().unwrap().len(), 58);
}

#[test]
fn hostile_text_stays_text() {
    let bad = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='x' </pre></details>\u{202e}\0<!--";
    let records = [
        Record::Run(Box::new(Run { name: bad.into(), config: bad.into(), ..Run::default() })),
        Record::Step(Box::new(Step { step: 1, loss: 2.0, ..Step::default() })),
        Record::Sample(Sample { step: 1, prompt: bad.into(), text: bad.into() }),
        Record::Skip(Skip { step: 1, reason: bad.into() }),
    ];
    let html = report(&records);
    assert_eq!(html.matches("<script").count(), 2, "the page's own");
    assert_eq!(html.matches("</script>").count(), 2);
    for tag in ["<img", "<!--", "\0", "\u{202e}"] {
        assert!(!html.contains(tag), "{tag:?}");
    }
    assert!(html.contains("&lt;img src=x onerror=alert(2)&gt;"));
    assert_eq!(html.matches("<details").count(), html.matches("</details>").count());
    data(&html);
}

#[test]
fn an_empty_run_says_so() {
    let html = report(&[]);
    assert!(html.contains("has not finished a step yet"));
    assert!(titles(&html).is_empty());
    let begun = report(&run(Shape { steps: 1, moe_layers: 1, experts: 2 })[..1]);
    assert!(begun.contains("has not finished a step yet") && begun.contains("stories-26m"));
}

#[test]
fn one_step_is_a_run() {
    let html = report(&[Record::Step(Box::new(Step { step: 1, loss: 11.5, ..Step::default() }))]);
    assert!(html.contains("<b>11.5000</b>"));
    assert_eq!(data(&html)["charts"][0]["series"][0]["mean"], serde_json::json!([11.5]));
}

#[test]
fn a_run_that_diverged_shows_where() {
    let step = |step, loss| Record::Step(Box::new(Step { step, loss, grad_norm: loss, ..Step::default() }));
    let html = report(&[
        step(1, 3.0),
        step(2, f64::NAN),
        step(3, f64::INFINITY),
        Record::Validation(Validation { step: 3, loss: f64::NAN, bits_per_byte: Some(f64::NAN) }),
    ]);
    let data = data(&html);
    assert_eq!(data["charts"][0]["series"][0]["not_finite"], serde_json::json!([2, 3]));
    assert_eq!(data["charts"][0]["series"][0]["step"], serde_json::json!([1]));
    assert!(html.contains("<b>not finite</b>"));

    let nothing_else = report(&[step(1, f64::NAN)]);
    assert!(nothing_else.contains("<b>not finite</b>"));
}

#[test]
fn a_folder_without_a_run_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let message = write(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("holds no metrics.jsonl") && message.contains("training run writes to"),
        "{message}"
    );
}

#[test]
fn a_run_without_a_name_is_called_after_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("my & run");
    fs::create_dir(&run).unwrap();
    assert!(report_in(&run, &[]).contains("<h1>my &amp; run</h1>"));
    assert_eq!(fs::read_dir(&run).unwrap().count(), 2, "log and report, nothing partial");
}
