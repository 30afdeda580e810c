//! Sessions on the fixtures: the references' greedy answers, reuse of the cache, endings, errors.

use std::ops::ControlFlow;
use std::path::PathBuf;

use fathom_checkpoint::Checkpoint;
use fathom_engine::{Completion, Error, Event, FinishReason, PREFILL_CHUNK, SamplingParams, Session};
use fathom_kernels::Compute;
use fathom_kernels::gemm::WeightFormat;
use fathom_model::{LoadOptions, Model};
use fathom_text::Tokenizer;

fn dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

struct Fixture {
    model: Model,
    tokenizer: Tokenizer,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let options = LoadOptions::new(WeightFormat::F32);
        let compute = Compute::new(2).unwrap();
        let golden = Checkpoint::open(&dir(name).join("golden.safetensors")).unwrap();
        let ids = |name: &str| -> Vec<u32> {
            golden.tensor(name).unwrap().to_i64().unwrap().into_iter().map(|id| id as u32).collect()
        };
        Fixture {
            model: Model::load(&dir(name), compute, options, &mut |_, _| {}).unwrap(),
            tokenizer: Tokenizer::from_dir(&dir(name)).unwrap(),
            prompt: ids("seq2.input_ids"),
            greedy: ids("greedy.tokens"),
        }
    }

    fn session(&self, context: Option<usize>) -> Session<'_> {
        Session::new(&self.model, Some(&self.tokenizer), vec![1], context).unwrap()
    }
}

fn greedy(max_tokens: usize) -> SamplingParams {
    SamplingParams { max_tokens: Some(max_tokens), ignore_eos: true, ..SamplingParams::greedy() }
}

fn answer(session: &mut Session<'_>, prompt: &[u32], params: &SamplingParams) -> Completion {
    session.generate(prompt, params, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn greedy_answers_are_the_references_and_events_tell_them() {
    for name in ["tiny-v2", "tiny-v3"] {
        let fixture = Fixture::open(name);
        let mut session = fixture.session(None);
        let (mut ids, mut text, mut prefill) = (Vec::new(), String::new(), Vec::new());
        let completion = session
            .generate(&fixture.prompt, &greedy(32), &mut |event| {
                match event {
                    Event::Prefill { done, total } => prefill.push((done, total)),
                    Event::Token(token) => ids.push(token.token_id),
                    Event::Text(piece) => text.push_str(piece),
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(completion.token_ids(), fixture.greedy, "{name}");
        assert_eq!(ids, fixture.greedy);
        assert_eq!(prefill, [(0, 33), (33, 33)]);
        assert_eq!(text, fixture.tokenizer.decode(&ids, true).unwrap());
        assert_eq!(completion.text.as_deref(), Some(&*text));
        assert_eq!(completion.finish_reason, FinishReason::Length);
        assert_eq!((completion.prompt_tokens, completion.cached_tokens), (33, 0));
        assert!(completion.tokens.iter().all(|token| token.logprob <= 0.0));
        assert!(completion.decode_tokens_per_second().is_some_and(|rate| rate > 0.0));
    }
}

#[test]
fn a_prompt_that_begins_like_the_last_runs_only_the_rest() {
    let fixture = Fixture::open("tiny-v3");
    let fresh = |prompt: &[u32]| answer(&mut fixture.session(None), prompt, &greedy(8)).token_ids();
    let mut session = fixture.session(None);
    let first = answer(&mut session, &fixture.prompt, &greedy(8));
    // The answer's last token was never run.
    let mut longer = [&fixture.prompt[..], &first.token_ids()].concat();
    longer.extend([5, 6, 7]);
    let mut changed = longer.clone();
    changed[20] ^= 1;
    // (prompt, tokens expected in the cache)
    let rows = [(&longer, 33 + 7), (&longer, longer.len() - 1), (&changed, 20), (&fixture.prompt, 20)];
    for (prompt, cached) in rows {
        let completion = answer(&mut session, prompt, &greedy(8));
        assert_eq!(completion.cached_tokens, cached);
        assert_eq!(completion.token_ids(), fresh(prompt));
    }
}

#[test]
fn a_long_prompt_runs_in_pieces_and_can_be_cancelled_between_them() {
    let fixture = Fixture::open("tiny-v2-lite");
    let prompt: Vec<u32> = (0..PREFILL_CHUNK as u32 * 2 + 9).map(|i| 3 + i * 7 % 400).collect();
    let mut session = fixture.session(None);
    let mut seen = Vec::new();
    let mut cancel_at = |limit: usize, seen: &mut Vec<usize>| {
        session
            .generate(&prompt, &greedy(4), &mut |event| {
                if let Event::Prefill { done, .. } = event {
                    seen.push(done);
                    if done >= limit {
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })
            .unwrap()
    };
    let cancelled = cancel_at(PREFILL_CHUNK, &mut seen);
    assert_eq!((cancelled.finish_reason, cancelled.tokens.len()), (FinishReason::Cancelled, 0));
    assert_eq!(cancelled.text.as_deref(), Some(""));
    // What was run before stays.
    let finished = cancel_at(usize::MAX, &mut seen);
    assert_eq!(finished.cached_tokens, PREFILL_CHUNK);
    assert_eq!(finished.tokens.len(), 4);
    assert_eq!(seen, [0, 512, 512, 1024, 1033]);
}

#[test]
fn endings() {
    let fixture = Fixture::open("tiny-v3");
    let prompt = &fixture.prompt;
    let whole = answer(&mut fixture.session(None), prompt, &greedy(32));
    let text = whole.text.clone().unwrap();
    let ids = &fixture.greedy;

    // A stop string: the text ends before it, wherever tokens are cut.
    let start = text.char_indices().nth(6).unwrap().0;
    let end = text.char_indices().nth(9).unwrap().0;
    let stop = text[start..end].to_owned();
    let params = SamplingParams { stop: vec!["not in it".into(), stop.clone()], ..greedy(32) };
    let stopped = answer(&mut fixture.session(None), prompt, &params);
    assert_eq!(stopped.text.as_deref(), Some(&text[..text.find(&stop).unwrap()]));
    assert_eq!((stopped.finish_reason, stopped.stop), (FinishReason::Stop, Some(1)));
    assert!(stopped.tokens.len() < 32);

    // A stop token: among the ids, not in the text.
    let params = SamplingParams { stop_token_ids: vec![ids[3]], ..greedy(32) };
    let stopped = answer(&mut fixture.session(None), prompt, &params);
    let first = ids.iter().position(|id| *id == ids[3]).unwrap();
    assert_eq!(stopped.token_ids(), ids[..=first]);
    assert_eq!(stopped.text.unwrap(), fixture.tokenizer.decode(&ids[..first], true).unwrap());
    assert_eq!((stopped.finish_reason, stopped.stop), (FinishReason::Stop, None));

    // The model's end token counts unless it is to be ignored.
    let mut session = Session::new(&fixture.model, None, vec![ids[5]], None).unwrap();
    let params = SamplingParams { ignore_eos: false, ..greedy(32) };
    let ended = answer(&mut session, prompt, &params);
    assert_eq!((ended.finish_reason, ended.text), (FinishReason::Stop, None));
    assert!(ended.tokens.len() <= 6);

    // The end of the context.
    let short =
        answer(&mut fixture.session(Some(40)), prompt, &SamplingParams { max_tokens: None, ..greedy(1) });
    assert_eq!((short.finish_reason, short.token_ids()), (FinishReason::Length, ids[..7].to_vec()));

    // The caller has enough.
    let mut left = 3;
    let cancelled = fixture.session(None).generate(prompt, &greedy(32), &mut |event| {
        left -= usize::from(matches!(event, Event::Token(_)));
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let cancelled = cancelled.unwrap();
    assert_eq!((cancelled.finish_reason, cancelled.tokens.len()), (FinishReason::Cancelled, 3));
    assert_eq!(cancelled.text.unwrap(), fixture.tokenizer.decode(&ids[..3], true).unwrap());
}

#[test]
fn errors_leave_a_session_that_works() {
    let fixture = Fixture::open("tiny-v2-lite");
    let mut session = fixture.session(Some(50));
    let mut refuse = |prompt: &[u32], params: &SamplingParams| {
        session.generate(prompt, params, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string()
    };
    let rows = [
        (vec![], greedy(1), "the prompt is empty"),
        (vec![5; 50], greedy(1), "the prompt has 50 tokens, but prompt and answer together may have 50"),
        (vec![5; 60], greedy(1), "raise the context"),
        (vec![5, 512], greedy(1), "prompt token 1 has id 512"),
        (vec![5], SamplingParams { top_p: 2.0, ..greedy(1) }, "`top_p` is 2"),
    ];
    for (prompt, params, expected) in rows {
        let message = refuse(&prompt, &params);
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(answer(&mut session, &fixture.prompt, &greedy(3)).token_ids(), fixture.greedy[..3]);
    for context in [0, 2561] {
        let refused = Session::new(&fixture.model, None, vec![], Some(context)).map(|_| ());
        assert!(matches!(refused, Err(Error::Context { model: 2560, .. })));
    }
    let mut wordless = Session::new(&fixture.model, None, vec![], None).unwrap();
    let params = SamplingParams { stop: vec!["x".into()], ..greedy(1) };
    let refused = wordless.generate(&[5], &params, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(Error::StopWithoutTokenizer)));
}
