//! `fathom generate`.

use std::io::Read;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fathom::{Copy, FIXTURES, Golden, command, fixture, run, run_with, scratch};

const GREEDY: [&str; 6] = ["--dtype", "f32", "--greedy", "--ignore-eos", "--max-tokens", "32"];

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn greedy_tokens_are_the_references() {
    for name in FIXTURES {
        let golden = Golden::open(name);
        let prompt = golden.ids("seq2.input_ids");
        for content in [json!(prompt), json!([prompt])] {
            let (_dir, tokens) = scratch("ids.json", &content.to_string());
            let args = [&["--tokens", &tokens, "--json"], &GREEDY[..]].concat();
            let got = run("generate", &fixture(name), &args).json();
            assert_eq!(ids(&got["token_ids"]), golden.ids("greedy.tokens"), "{name}");
            assert_eq!(got["finish_reason"], "length");
        }
    }
}

#[test]
fn json_says_everything() {
    let args = ["--prompt", "Hello", "--json", "--logprobs", "3", "--max-tokens", "5", "--seed", "7"];
    let got = run("generate", &fixture("tiny-v3"), &args).json();
    let keys: Vec<&String> = got.as_object().unwrap().keys().collect();
    let expected = [
        "text",
        "reasoning",
        "finish_reason",
        "token_ids",
        "prompt_token_ids",
        "logprobs",
        "seed",
        "usage",
        "timings",
        "prefill_tokens_per_second",
        "tokens_per_second",
    ];
    assert_eq!(keys, expected);
    let tokens = ids(&got["token_ids"]);
    assert_eq!(got["usage"]["completion_tokens"], tokens.len());
    assert_eq!(got["usage"]["prompt_tokens"], ids(&got["prompt_token_ids"]).len());
    assert_eq!(got["seed"], 7);
    let logprobs = got["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), tokens.len());
    for (token, id) in logprobs.iter().zip(&tokens) {
        assert_eq!(token["token_id"], *id);
        let logprob = token["logprob"].as_f64().unwrap();
        let top = token["top"].as_array().unwrap();
        let values: Vec<f64> = top.iter().map(|top| top["logprob"].as_f64().unwrap()).collect();
        assert_eq!(values.len(), 3);
        assert!(values.is_sorted_by(|a, b| a >= b) && logprob <= values[0] && values[0] <= 0.0, "{token}");
    }
}

#[test]
fn log_probabilities_are_those_of_the_reference_logits() {
    let golden = Golden::open("tiny-v2");
    let (_dir, tokens) = scratch("ids.json", &json!(golden.ids("seq2.input_ids")).to_string());
    let args = [&["--tokens", &tokens, "--json", "--logprobs", "1"], &GREEDY[..]].concat();
    let got = run("generate", &fixture("tiny-v2"), &args).json();
    let steps = golden.floats("greedy.step_logits");
    for (token, logits) in got["logprobs"].as_array().unwrap().iter().zip(steps.chunks(512)) {
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - best).exp()).sum();
        let logprob = token["logprob"].as_f64().unwrap();
        // Logits may differ by 2e-4.
        assert!((logprob + sum.ln()).abs() < 4e-4, "{token}: expected {}", -sum.ln());
    }
}

#[test]
fn the_seed_decides_the_text_and_threads_do_not() {
    let text = |seed: &str, threads: &str| {
        let args = ["--prompt", "Tell me", "--temperature", "1", "--max-tokens", "24", "--seed", seed];
        run("generate", &fixture("tiny-v3"), &[&args[..], &["--threads", threads]].concat()).ok().stdout
    };
    let first = text("11", "1");
    assert_eq!(text("11", "2"), first);
    assert_eq!(text("11", "3"), first);
    assert_ne!(text("12", "2"), first);
}

#[test]
fn prompts_come_from_everywhere_and_mean_the_same() {
    let model = fixture("tiny-v3");
    let (_dir, file) = scratch("prompt.txt", "Why?\n");
    let rest = ["--max-tokens", "4", "--greedy", "--json"];
    let ids_of = |args: &[&str], input: &[u8]| {
        ids(&run_with("generate", &model, &[args, &rest].concat(), input).json()["prompt_token_ids"])
    };
    let expected = ids_of(&["--prompt", "Why?"], b"");
    assert_eq!(ids_of(&["--file", &file], b""), expected);
    assert_eq!(ids_of(&["--prompt", "-"], b"Why?\n"), expected);
    assert_eq!(ids_of(&["--file", "-"], b"Why?"), expected);
    assert_eq!(ids_of(&[], b"Why?\r\n"), expected);
    // The template: bos, user, text, assistant. Raw: bos, text.
    let raw = ids_of(&["--raw", "--prompt", "Why?"], b"");
    assert_eq!(raw[1..], expected[2..expected.len() - 1]);
    assert_eq!(raw[0], 0);
    let system = ids_of(&["--system", "Be brief.", "--prompt", "Why?"], b"");
    assert!(system.ends_with(&expected[1..]) && system.len() > expected.len());
}

#[test]
fn stop_strings_and_tokens_end_the_answer() {
    let golden = Golden::open("tiny-v3");
    let greedy = golden.ids("greedy.tokens");
    let (_dir, tokens) = scratch("ids.json", &json!(golden.ids("seq2.input_ids")).to_string());
    let run_it = |more: &[&str]| {
        let args = [&["--tokens", &tokens], &GREEDY[..], more].concat();
        run("generate", &fixture("tiny-v3"), &args).ok()
    };
    let whole = run_it(&[]).stdout;
    let stop: String = whole.chars().skip(8).take(3).collect();
    let expected = &whole[..whole.find(&stop).unwrap()];
    assert_eq!(run_it(&["--stop", &stop]).stdout, format!("{expected}\n"));
    let got = run_it(&["--json", "--stop", &stop]).json();
    assert_eq!((&got["finish_reason"], &got["text"]), (&json!("stop"), &json!(expected)));

    let end = greedy.iter().position(|id| *id == greedy[4]).unwrap();
    let got = run_it(&["--json", "--stop-token-id", &greedy[4].to_string()]).json();
    assert_eq!(ids(&got["token_ids"]), greedy[..=end]);
    assert_eq!(got["finish_reason"], "stop");
}

#[test]
fn the_models_files_decide_what_flags_leave_open() {
    let copy = Copy::of("tiny-v3");
    let prompt = ["--prompt", "Hi", "--max-tokens", "6", "--json"];
    let tokens =
        |args: &[&str]| ids(&run("generate", &copy.model(), &[&prompt, args].concat()).json()["token_ids"]);
    let greedy = tokens(&["--greedy"]);
    copy.edit_json("generation_config.json", |config| config["do_sample"] = false.into());
    assert_eq!(tokens(&[]), greedy);
    // An end token from generation_config.json, unless it is to be ignored.
    let end = greedy.iter().position(|id| *id == greedy[2]).unwrap();
    copy.edit_json("generation_config.json", |config| config["eos_token_id"] = json!([1, greedy[2]]));
    assert_eq!(tokens(&[]), greedy[..=end]);
    assert_eq!(tokens(&["--ignore-eos"]), greedy);
}

#[test]
fn reasoning_is_told_apart() {
    let copy = Copy::of("tiny-v3");
    copy.edit_json("tokenizer_config.json", |config| {
        config["chat_template"] = "{{ bos_token }}{{ messages[0]['content'] }}<think>\n".into();
    });
    let args = ["--prompt", "Hi", "--max-tokens", "6", "--greedy"];
    // The model never closes it, so all is reasoning.
    let json = run("generate", &copy.model(), &[&args[..], &["--json"]].concat()).json();
    assert_eq!(json["text"], "");
    let reasoning = json["reasoning"].as_str().unwrap();
    assert!(!reasoning.is_empty());
    let plain = run("generate", &copy.model(), &args).ok();
    assert_eq!((&*plain.stdout, &*plain.stderr), ("\n", reasoning));
}

#[test]
fn without_a_tokenizer_ids_go_in_and_out() {
    let copy = Copy::of("tiny-v2-lite");
    std::fs::remove_file(copy.file("tokenizer.json")).unwrap();
    let (_dir, tokens) = scratch("ids.json", "[0, 17, 4]");
    let got = run("generate", &copy.model(), &["--tokens", &tokens, "--json", "--max-tokens", "3"]).json();
    assert_eq!((&got["text"], &got["reasoning"]), (&Value::Null, &Value::Null));
    assert_eq!(ids(&got["prompt_token_ids"]), [0, 17, 4]);
    run("generate", &copy.model(), &["--tokens", &tokens]).refused(&["no tokenizer", "tokenizer.json"]);
    let stop = ["--tokens", &tokens, "--json", "--stop", "x"];
    run("generate", &copy.model(), &stop).refused(&["stop strings need a tokenizer"]);
}

#[test]
fn ctrl_c_prints_what_there_is() {
    let mut child = command("generate", &fixture("tiny-v3"))
        .args(["--prompt", "Hi", "--ignore-eos", "--seed", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut text = vec![0; 1];
    stdout.read_exact(&mut text).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    stdout.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(output.stderr, b"");
    assert!(text.ends_with(b"\n") && text.len() >= 2);
}
