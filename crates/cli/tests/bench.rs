//! `fathom bench` as its users see it: output, errors, exit codes; never a speed.

use std::process::{Command, Output};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny-v2-lite");

fn bench(args: &[&str]) -> Output {
    let fathom = env!("CARGO_BIN_EXE_fathom");
    Command::new(fathom).arg("bench").args(args).output().expect("the binary was built")
}

fn quick(args: &[&str]) -> Output {
    let quick = ["--model", MODEL, "--repeats", "1", "--decode-tokens", "2", "--bandwidth-mib", "1"];
    bench(&[&quick, args].concat())
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON value on stdout")
}

#[test]
fn json_holds_every_case_with_its_samples() {
    let cases = ["--prompt-tokens", "4,8", "--context", "0,8", "--batch", "1,2", "--threads", "2", "--json"];
    let report = json(&quick(&cases));
    assert_eq!(report["complete"], true);
    assert_eq!(report["model"]["dtype"], "bf16");
    assert_eq!(report["limits"]["threads"], 2);
    let len = |what: &str| report[what].as_array().map(Vec::len);
    assert_eq!((len("prefill"), len("decode")), (Some(4), Some(4)));
    let speed = &report["decode"][0]["tokens_per_second"];
    assert_eq!(speed["samples"].as_array().map(Vec::len), Some(1));
    let number = |field: &str| speed[field].as_f64().expect("a number");
    assert!(number("min") <= number("median") && number("median") <= number("max") && number("min") > 0.0);
}

#[test]
fn people_get_a_table() {
    let output = quick(&["--prompt-tokens", "4", "--dtype", "f32"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for expected in ["deepseek_v2", "f32", "weights", "prefill", "decode", "tokens/s", "× f32"] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    assert!(output.status.success() && !text.contains("incomplete"), "{text}");
}

#[test]
fn limits_need_no_model() {
    let limits = json(&bench(&["--roofline", "--threads", "1", "--bandwidth-mib", "1", "--json"]));
    assert_eq!(limits["threads"], 1);
    assert!(limits["read_before"]["best"].as_f64().is_some_and(|rate| rate > 0.0), "{limits}");
    let text = bench(&["--roofline", "--bandwidth-mib", "1"]).stdout;
    assert!(String::from_utf8_lossy(&text).contains("f32 FMA"));
}

#[test]
fn bad_input_is_one_clear_error() {
    let none: [(&[&str], &str); 10] = [
        (&["--repeats", "0"], "--repeats"),
        (&["--threads", "99999"], "--threads"),
        (&["--batch", "1,0"], "--batch"),
        (&["--prompt-tokens", "0"], "--prompt-tokens"),
        (&["--prompt-tokens", "4,,8"], "no list of counts"),
        (&["--context", "many"], "no list of counts"),
        (&["--context", "99999999"], "max_position_embeddings"),
        (&["--prompt-tokens", "none", "--decode-tokens", "0"], "nothing to measure"),
        (&["--bandwidth-mib", "99999999999"], "--bandwidth-mib"),
        (&["--batch", "9999999999999"], "latent cache"),
    ];
    for (args, expected) in none {
        let model: &[&str] = &["--model", MODEL];
        let output = bench(&[model, args].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(expected), "{args:?}: {error}");
        assert!(!error.contains("panicked") && output.stdout.is_empty(), "{args:?}: {error}");
        assert_eq!(error.matches("error:").count(), 1, "{args:?}: {error}");
    }
    let missing = bench(&[]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("--model"));
    assert_eq!(missing.status.code(), Some(2));
}
