//! The engine on small models: many at a time must be what each is alone.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fathom_engine::{
    DiskCache, Engine, EngineOptions, Error, FinishReason, Finished, Grammar, Request, SamplingParams,
    Session, Ticket, TokenLogprobs, Update,
};
use fathom_kernels::Compute;
use fathom_kernels::attention::CacheFormat;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::{LoadOptions, Model, Storage};
use fathom_text::Tokenizer;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn model(name: &str, mtp: bool) -> (Model, Arc<Tokenizer>) {
    load(name, LoadOptions { mtp, ..LoadOptions::new(WeightFormat::F32) })
}

fn load(name: &str, options: LoadOptions) -> (Model, Arc<Tokenizer>) {
    let compute = Compute::new(2).expect("threads");
    let model = Model::load(&fixture(name), compute, options, &mut |_, _| {}).expect("the fixture loads");
    (model, Arc::new(Tokenizer::from_dir(&fixture(name)).expect("it has a tokenizer")))
}

fn engine(name: &str, options: EngineOptions) -> Engine {
    let (model, tokenizer) = model(name, options.speculation > 0);
    Engine::start(model, tokenizer, Vec::new(), options).expect("it starts")
}

fn prompt(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| 5 + (seed * 31 + i * i * 7 + i) % 200).collect()
}

fn params(tokens: usize, temperature: f32) -> SamplingParams {
    SamplingParams { temperature, max_tokens: Some(tokens), seed: Some(7), ..SamplingParams::default() }
}

/// What came of a request.
struct Answer(Receiver<Update>, Ticket);

#[derive(Debug, PartialEq)]
struct Outcome {
    tokens: Vec<u32>,
    text: String,
    finished: Finished,
}

impl Answer {
    /// The answer's tokens with their probabilities.
    fn tokens(self) -> Vec<TokenLogprobs> {
        let of_token = |update| match update {
            Update::Token { token, .. } => Some(token),
            _ => None,
        };
        self.0.into_iter().filter_map(of_token).collect()
    }

    fn outcome(self) -> Outcome {
        let (mut tokens, mut text, mut finished) = (Vec::new(), String::new(), None);
        for update in self.0 {
            assert!(finished.is_none(), "nothing comes after the end");
            match update {
                Update::Started { .. } => assert!(tokens.is_empty()),
                Update::Token { token, text: piece } => {
                    tokens.push(token.token_id);
                    text.push_str(&piece);
                }
                Update::Finished(end) => {
                    text.push_str(&end.text);
                    finished = Some(end);
                }
            }
        }
        Outcome { tokens, text, finished: finished.expect("every request ends") }
    }
}

fn request(prompt: Vec<u32>, params: SamplingParams) -> (Request, Receiver<Update>) {
    let (sender, updates) = channel();
    let sink = move |update| match sender.send(update) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    let (tenant, namespace) = ("somebody".to_owned(), String::new());
    (Request { prompt, params, tenant, namespace, constraint: None, sink: Box::new(sink) }, updates)
}

fn submit(engine: &Engine, prompt: Vec<u32>, params: SamplingParams) -> Answer {
    let (request, updates) = request(prompt, params);
    Answer(updates, engine.submit(request).expect("it is taken"))
}

/// Answers of a [`Session`], which runs one sequence at a time.
fn alone(name: &str, requests: &[(Vec<u32>, SamplingParams)]) -> Vec<Vec<u32>> {
    let (model, tokenizer) = model(name, false);
    requests
        .iter()
        .map(|(prompt, params)| {
            let mut session = Session::new(&model, Some(&tokenizer), Vec::new(), None).expect("a session");
            let completion = session.generate(prompt, params, &mut |_| ControlFlow::Continue(()));
            completion.expect("it answers").token_ids()
        })
        .collect()
}

fn mixed_requests() -> Vec<(Vec<u32>, SamplingParams)> {
    (0..10)
        .map(|i| {
            let temperature = if i % 2 == 0 { 0.0 } else { 0.9 };
            (prompt(i % 4, 20 + 37 * i as usize % 150), params(24 + i as usize % 5, temperature))
        })
        .collect()
}

#[track_caller]
fn check(name: &str, options: EngineOptions, requests: Vec<(Vec<u32>, SamplingParams)>) -> Engine {
    let engine = engine(name, options);
    let answers: Vec<Answer> =
        requests.iter().map(|(prompt, params)| submit(&engine, prompt.clone(), params.clone())).collect();
    let outcomes: Vec<Outcome> = answers.into_iter().map(Answer::outcome).collect();
    for (index, (outcome, alone)) in outcomes.iter().zip(alone(name, &requests)).enumerate() {
        assert_eq!(outcome.tokens, alone, "request {index}");
        assert_eq!(outcome.finished.finish_reason, FinishReason::Length);
        assert_eq!(outcome.finished.completion_tokens, outcome.tokens.len());
        assert_eq!(outcome.finished.prompt_tokens, requests[index].0.len());
    }
    assert!(engine.wait_idle(Duration::from_secs(5)));
    let statistics = engine.statistics();
    assert_eq!((statistics.running, statistics.waiting, statistics.cache_blocks_used), (0, 0, 0));
    assert_eq!(statistics.generated_tokens, outcomes.iter().map(|o| o.tokens.len() as u64).sum::<u64>());
    engine
}

#[test]
fn many_at_a_time_are_what_each_is_alone() {
    for name in ["tiny-v2-lite", "tiny-v2", "tiny-v3"] {
        check(name, EngineOptions { step_tokens: 64, ..EngineOptions::default() }, mixed_requests());
    }
}

/// Whatever the formats of weights and latents: an answer's tokens and their probabilities are, to the last bit, what
/// they are alone, whoever is beside, however prompts were cut, drafts checked, sequences preempted, and whatever
/// of an earlier turn was cached.
#[test]
fn batch_invariant_models_answer_the_same_bits_in_any_company() {
    let quantized = |plan| Storage::quantized(Storage::preset(plan).expect("a plan"));
    for (name, storage, latents) in [
        ("tiny-v2-lite", quantized("int8"), None),
        ("tiny-v3-mtp", quantized("int4-mixed"), Some(CacheFormat::Int8)),
        ("tiny-v3-mtp", WeightFormat::Bf16.into(), None),
        ("tiny-v2", WeightFormat::F32.into(), Some(CacheFormat::Fp8)),
    ] {
        let loaded = |mtp| {
            let options = LoadOptions { mtp, batch_invariant: true, ..LoadOptions::new(storage.clone()) };
            let (mut model, tokenizer) = load(name, options);
            model.set_cache_format(latents);
            (model, tokenizer)
        };
        let (model, tokenizer) = loaded(false);
        let alone = |(prompt, params): &(Vec<u32>, SamplingParams)| {
            let mut session = Session::new(&model, Some(&tokenizer), Vec::new(), None).expect("a session");
            let completion = session.generate(prompt, params, &mut |_| ControlFlow::Continue(()));
            completion.expect("it answers").tokens
        };
        for (step_tokens, cache_tokens) in [(512, 65_536), (48, 65_536), (40, 320)] {
            let speculation = if name.ends_with("mtp") { 16 } else { 0 };
            let options =
                EngineOptions { speculation, step_tokens, cache_tokens, ..EngineOptions::default() };
            let (model, tokenizer) = loaded(speculation > 0);
            let engine = Engine::start(model, tokenizer.clone(), Vec::new(), options).expect("it starts");
            // In the small cache two of four fit at first, and not to their end.
            let mut requests = match cache_tokens {
                320 => (0..4).map(|i| (prompt(i, 20), params(110, 0.9))).collect(),
                _ => mixed_requests(),
            };
            for turn in 0..2 {
                let answers: Vec<Answer> = requests
                    .iter()
                    .map(|(prompt, params)| submit(&engine, prompt.clone(), params.clone()))
                    .collect();
                for (index, (answer, request)) in answers.into_iter().zip(&mut requests).enumerate() {
                    let tokens = answer.tokens();
                    assert_eq!(tokens, alone(request), "{name} {step_tokens} turn {turn} request {index}");
                    request.0.extend(tokens.iter().map(|token| token.token_id).chain(prompt(9, 5)));
                }
            }
            let statistics = engine.statistics();
            let tested = if cache_tokens == 320 { statistics.preemptions } else { statistics.cached_tokens };
            assert!(tested > 0, "or it does not test what it says: {statistics:?}");
        }
    }
}

#[test]
fn too_little_room_costs_time_and_changes_nothing() {
    // Two of them fit at first, and not to their end.
    let requests = (0..4).map(|i| (prompt(i, 20), params(150, 0.9))).collect();
    let options = EngineOptions { cache_tokens: 4 * 64, step_tokens: 40, ..EngineOptions::default() };
    let engine = check("tiny-v3", options, requests);
    assert!(engine.statistics().preemptions > 0, "or the test does not test what it says");
}

#[test]
fn drafts_change_nothing_but_the_time() {
    for cache_tokens in [4096, 4 * 64] {
        let options =
            EngineOptions { speculation: 16, step_tokens: 48, cache_tokens, ..EngineOptions::default() };
        let engine = check("tiny-v3-mtp", options, mixed_requests());
        let statistics = engine.statistics();
        assert!(statistics.drafted_tokens > 50, "{statistics:?}");
        assert!(statistics.accepted_tokens <= statistics.drafted_tokens);
    }
}

#[test]
fn a_prefix_is_shared_within_its_namespace_only() {
    let engine = engine("tiny-v3", EngineOptions::default());
    let cached = |namespace: &str, prompt: Vec<u32>| {
        let (mut request, updates) = request(prompt, params(1, 0.0));
        namespace.clone_into(&mut request.namespace);
        let ticket = engine.submit(request).expect("it is taken");
        Answer(updates, ticket).outcome().finished.cached_tokens
    };
    let long = prompt(1, 200);
    assert_eq!(cached("a", long.clone()), 0);
    assert_eq!(cached("b", long.clone()), 0, "another's prefix");
    assert_eq!(cached("a", long.clone()), 199, "all but the last, whose logits are needed");
    let mut other_end = long[..130].to_vec();
    other_end.extend(prompt(9, 70));
    assert_eq!(cached("a", other_end), 130);
    assert_eq!(engine.statistics().cached_tokens, 199 + 130);
}

#[test]
fn a_prefix_survives_a_restart() {
    let scratch = tempfile::tempdir().expect("a directory");
    let disk_cache = Some(DiskCache { directory: scratch.path().to_owned(), bytes: 1 << 30 });
    let options = EngineOptions { disk_cache, ..EngineOptions::default() };
    let run = |name: &str| {
        let engine = engine(name, options.clone());
        let outcome = submit(&engine, prompt(3, 300), params(20, 0.0)).outcome();
        (outcome.tokens, outcome.finished.cached_tokens, engine.statistics().disk_blocks_read)
    };
    let (tokens, cached, _) = run("tiny-v3");
    assert_eq!(cached, 0);
    // The engine's end waits for what is being written.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(run("tiny-v3"), (tokens, 256, 4));
    assert_eq!(run("tiny-v3-mtp").1, 0, "another model's latents");
}

#[test]
fn requests_can_be_cancelled_and_left() {
    let engine = engine("tiny-v3", EngineOptions::default());
    let answer = submit(&engine, prompt(1, 10), params(100_000, 0.0));
    answer.0.recv().expect("it starts");
    answer.1.cancel();
    let outcome = answer.outcome();
    assert_eq!(outcome.finished.finish_reason, FinishReason::Cancelled);
    drop(submit(&engine, prompt(1, 10), params(100_000, 0.0)));
    assert!(engine.wait_idle(Duration::from_secs(5)), "nobody listens: nothing runs");
}

#[test]
fn a_crash_is_told_to_everybody() {
    let engine = engine("tiny-v3", EngineOptions::default());
    let other = submit(&engine, prompt(1, 10), params(100_000, 0.0));
    other.0.recv().expect("it starts");
    let (mut request, _) = request(prompt(2, 10), params(8, 0.0));
    request.sink = Box::new(|_| panic!("on purpose: the engine's thread ends"));
    engine.submit(request).expect("it is taken");
    assert!(engine.wait_idle(Duration::from_secs(20)), "nobody waits for what will not come");
    assert!(engine.has_crashed());
    assert!(!other.0.iter().any(|update| matches!(update, Update::Finished(_))), "it hangs up");
    let refused = engine.submit(self::request(prompt(3, 10), params(1, 0.0)).0);
    assert!(matches!(refused.map(drop), Err(Error::Crashed)));
}

#[test]
fn what_cannot_be_answered_is_refused_at_the_door() {
    let options = EngineOptions { waiting: 1, sequences: 1, cache_tokens: 128, ..EngineOptions::default() };
    let engine = engine("tiny-v3", options);
    assert_eq!(engine.context(), 128);
    let refused =
        |prompt, params| engine.submit(request(prompt, params).0).expect_err("it cannot be answered");
    assert!(matches!(refused(vec![], params(1, 0.0)), Error::EmptyPrompt));
    assert!(matches!(refused(prompt(0, 128), params(1, 0.0)), Error::PromptTooLong { context: 128, .. }));
    assert!(matches!(refused(vec![1 << 30], params(1, 0.0)), Error::PromptToken { .. }));
    assert!(matches!(refused(prompt(0, 4), params(0, 0.0)), Error::InvalidParam { .. }));

    let running = submit(&engine, prompt(0, 4), params(100, 0.0));
    running.0.recv().expect("it starts");
    let waiting = submit(&engine, prompt(0, 4), params(3, 0.0));
    assert!(matches!(refused(prompt(0, 4), params(1, 0.0)), Error::QueueFull { .. }));
    engine.drain();
    assert!(matches!(refused(prompt(0, 4), params(1, 0.0)), Error::Draining));
    assert_eq!(running.outcome().tokens.len(), 100, "what was taken is answered");
    assert_eq!(waiting.outcome().tokens.len(), 3);

    let engine = self::engine("tiny-v3", EngineOptions::default());
    let cut = submit(&engine, prompt(0, 4), params(100_000, 0.0));
    cut.0.recv().expect("it starts");
    engine.stop();
    assert_eq!(cut.outcome().finished.finish_reason, FinishReason::Unavailable);
    for (options, field) in [
        (EngineOptions { cache_tokens: 10, ..EngineOptions::default() }, "cache_tokens"),
        (EngineOptions { sequences: 0, ..EngineOptions::default() }, "sequences"),
    ] {
        let (model, tokenizer) = model("tiny-v3", false);
        match Engine::start(model, tokenizer, Vec::new(), options) {
            Err(Error::EngineOption { field: got, .. }) => assert_eq!(got, field),
            other => panic!("{:?}", other.err()),
        }
    }
}

#[test]
fn an_answer_follows_its_grammar() {
    for speculation in [0, 4] {
        let engine = engine("tiny-v3-mtp", EngineOptions { speculation, ..EngineOptions::default() });
        let answer = |grammar: Grammar| {
            let (mut request, updates) = request(prompt(2, 30), params(200, 1.0));
            request.constraint = Some(engine.constraint(&grammar).expect("a good grammar"));
            let outcome = Answer(updates, engine.submit(request).expect("it is taken")).outcome();
            assert_eq!(outcome.finished.finish_reason, FinishReason::Stop, "{outcome:?}");
            outcome.text
        };
        let digits = answer(Grammar::Regex("[0-9]{4}-[ab]+c".to_owned()));
        assert!(digits.len() >= 7 && digits.as_bytes()[4] == b'-' && digits.ends_with('c'), "{digits}");
        let schema = serde_json::json!({
            "type": "object", "additionalProperties": false, "required": ["kind", "size"],
            "properties": { "kind": { "enum": ["red", "green"] }, "size": { "type": "integer", "minimum": 3, "maximum": 40 } },
        });
        let text = answer(Grammar::JsonSchema(schema));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(["red", "green"].contains(&value["kind"].as_str().expect("a string")), "{value}");
        assert!((3..=40).contains(&value["size"].as_i64().expect("an integer")), "{value}");
        assert!(
            ["yes", "no"].contains(&answer(Grammar::Lark("start: \"yes\" | \"no\"".to_owned())).as_str())
        );
    }
}

#[test]
fn grammars_that_cannot_be_followed_are_refused() {
    let engine = engine("tiny-v3", EngineOptions::default());
    let mut deep = serde_json::json!({});
    for _ in 0..100 {
        deep = serde_json::json!({ "items": deep });
    }
    for grammar in [
        Grammar::Regex("(".to_owned()),
        Grammar::Lark("start: nothing".to_owned()),
        Grammar::JsonSchema(serde_json::json!({ "type": "nothing" })),
        Grammar::JsonSchema(deep),
        Grammar::Regex("a".repeat(1 << 20)),
    ] {
        assert!(matches!(engine.constraint(&grammar), Err(Error::Grammar { .. })), "{grammar:?}");
    }
    assert!(engine.constraint(&Grammar::JsonObject).is_ok());
}
