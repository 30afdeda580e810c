//! `/completions`: text goes on, or the gap between two texts is filled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use fathom_engine::{FinishReason, SamplingParams, TokenLogprobs, Update};
use fathom_text::{Tokenizer, encode_fim};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::admission::Caller;
use crate::api_error::{ApiError, ApiResult, ErrorBody};
use crate::app::{App, blocking};
use crate::body;
use crate::chat::{
    Stop, StreamOptions, Usage, choices, finish_reason, logit_bias, stops, token_text, user_id,
};
use crate::identity::{now, random_id};
use crate::run::{Job, Run};
use crate::sse::{self, Script, event, json};

const IGNORED: [&str; 4] = ["metadata", "store", "service_tier", "prompt_cache_key"];

/// A request to go on with a text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompletionRequest {
    /// The model's id, or another name under which this server knows it.
    model: String,
    /// A text, texts, token ids, or lists of those. Control tokens in texts are read as the characters they are.
    prompt: PromptField,
    /// What comes after the answer: fills the gap between `prompt` and `suffix`.
    suffix: Option<String>,
    /// Begin the answer with the prompt.
    echo: Option<bool>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Longest answer in tokens.
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    seed: Option<i64>,
    stop: Option<Stop>,
    /// Answers to each prompt.
    n: Option<usize>,
    /// Report log-probabilities with this many alternatives, at most 20.
    logprobs: Option<usize>,
    user_id: Option<String>,
    user: Option<String>,
}

/// A text, texts, token ids, or lists of those.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum PromptField {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    Lists(Vec<Vec<u32>>),
}

/// A text that went on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion {
    id: String,
    /// `text_completion`.
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

/// One answer of several.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

/// Log-probabilities, as lists of the same length.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where each token begins in the answer's text, in characters.
    text_offset: Vec<usize>,
}

/// Continue a text.
#[utoipa::path(
    post, path = "/v1/completions", tag = "completions", request_body = CompletionRequest, security(("bearer" = [])),
    responses(
        (status = 200, description = "The text; with `stream`, pieces as server-sent events", content(
            (Completion = "application/json"), (Completion = "text/event-stream"))),
        (status = 400, description = "No JSON, an unknown model, or a prompt beyond the context", body = ErrorBody),
        (status = 401, description = "No valid key", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 422, description = "A field is wrong; `param` names it", body = ErrorBody),
        (status = 429, description = "Too much at a time for this key", body = ErrorBody),
        (status = 500, description = "The server failed", body = ErrorBody),
        (status = 503, description = "Too many requests wait, or the server is about to end", body = ErrorBody)))]
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let arrived = Instant::now();
    let key_id = app.authenticate(&headers)?;
    let bytes = body::read(&app, &headers, body).await?;
    let shared = app.clone();
    let (job, script, stream) = blocking(move || prepare(&shared, key_id, &bytes, arrived)).await?;
    let every = app.limits.keep_alive;
    let run = Run::start(&app, job)?;
    if stream { Ok(sse::stream(run, Pieces(script), every)) } else { sse::whole(run, script, every).await }
}

fn prepare(app: &App, key_id: String, bytes: &[u8], arrived: Instant) -> ApiResult<(Job, Texts, bool)> {
    let request: CompletionRequest = body::parse(bytes, &IGNORED)?;
    app.check_model(&request.model)?;
    let tokenizer = &app.words.tokenizer;
    let params = request.params(app)?;
    let n = choices(request.n, app.config.max_choices)?;
    let prompts = prompts(request.prompt, request.suffix.as_deref(), tokenizer)?;
    if prompts.is_empty() || prompts.len() * n > app.config.max_choices {
        let most = app.config.max_choices;
        let message =
            format!("{} prompts with {n} answers each; allowed: 1 to {most} answers", prompts.len());
        return Err(ApiError::param("prompt", message));
    }
    if app.config.log_prompts {
        tracing::info!(prompts = ?prompts.iter().map(|prompt| &prompt.1).collect::<Vec<_>>(), "completions");
    }
    let (prompts, echoes): (Vec<Vec<u32>>, Vec<String>) = prompts.into_iter().unzip();
    let echo = request.echo == Some(true);
    let part = |i: usize| TextPart {
        text: if echo { echoes[i / n].clone() } else { String::new() },
        pending: Vec::new(),
        logprobs: CompletionLogprobs::default(),
        finish_reason: None,
        said: 0,
        offset: 0,
    };
    let script = Texts {
        id: random_id(),
        created: now(),
        model: app.model_id.clone(),
        tokenizer: tokenizer.clone(),
        parts: (0..prompts.len() * n).map(part).collect(),
        wants_logprobs: params.logprobs.is_some(),
        prompt_tokens: prompts.iter().map(Vec::len).sum(),
        n,
        cached: 0,
        completion: 0,
        include_usage: request.stream_options.is_some_and(|options| options.include_usage == Some(true)),
    };
    let caller = Caller { key_id, user_id: user_id(request.user_id.or(request.user))? };
    let job = Job { route: "completions", caller, prompts, params, n, constraint: None, arrived };
    Ok((job, script, request.stream == Some(true)))
}

impl CompletionRequest {
    fn params(&self, app: &App) -> ApiResult<SamplingParams> {
        let mut params = SamplingParams::recommended(&app.words.recommendation);
        params.temperature = self.temperature.unwrap_or(params.temperature);
        params.top_p = self.top_p.unwrap_or(params.top_p);
        params.top_k = self.top_k.or(params.top_k);
        params.min_p = self.min_p.unwrap_or(params.min_p);
        params.repetition_penalty = self.repetition_penalty.unwrap_or(params.repetition_penalty);
        params.frequency_penalty = self.frequency_penalty.unwrap_or_default();
        params.presence_penalty = self.presence_penalty.unwrap_or_default();
        params.seed = self.seed.map(i64::cast_unsigned);
        params.max_tokens = self.max_tokens.or(params.max_tokens);
        params.logit_bias = logit_bias(self.logit_bias.as_ref())?;
        params.stop = stops(self.stop.as_ref());
        params.logprobs = self.logprobs;
        params.validate(app.engine.config().vocab_size)?;
        Ok(params)
    }
}

/// The ids of each prompt, and its text for `echo`.
fn prompts(
    field: PromptField,
    suffix: Option<&str>,
    tokenizer: &Tokenizer,
) -> ApiResult<Vec<(Vec<u32>, String)>> {
    if let Some(suffix) = suffix.filter(|suffix| !suffix.is_empty()) {
        let PromptField::Text(prefix) = field else {
            return Err(ApiError::param("suffix", "`suffix` needs a `prompt` that is one text"));
        };
        let ids = encode_fim(tokenizer, &prefix, suffix)?;
        let ids = ids.ok_or_else(|| ApiError::param("suffix", "this model was not made to fill gaps"))?;
        return Ok(vec![(ids, prefix)]);
    }
    let of_text = |text: String| {
        let add_bos = tokenizer.config().add_bos_token != Some(false);
        let mut ids: Vec<u32> = tokenizer.bos_token_id().filter(|_| add_bos).into_iter().collect();
        ids.extend(tokenizer.encode_plain(&text)?);
        Ok((ids, text))
    };
    let of_ids = |ids: Vec<u32>| {
        let text = tokenizer.decode(&ids, false)?;
        Ok((ids, text))
    };
    match field {
        PromptField::Text(text) => Ok(vec![of_text(text)?]),
        PromptField::Texts(texts) => texts.into_iter().map(of_text).collect(),
        PromptField::Ids(ids) => Ok(vec![of_ids(ids)?]),
        PromptField::Lists(lists) => lists.into_iter().map(of_ids).collect(),
    }
}

/// The answers, whole.
struct Texts {
    id: String,
    created: u64,
    model: String,
    tokenizer: Arc<Tokenizer>,
    parts: Vec<TextPart>,
    wants_logprobs: bool,
    prompt_tokens: usize,
    n: usize,
    cached: usize,
    completion: usize,
    include_usage: bool,
}

struct TextPart {
    text: String,
    pending: Vec<TokenLogprobs>,
    logprobs: CompletionLogprobs,
    finish_reason: Option<&'static str>,
    /// Bytes of `text` that were sent.
    said: usize,
    /// Characters of the tokens so far.
    offset: usize,
}

impl Texts {
    fn take(&mut self, index: usize, update: Update) {
        let part = &mut self.parts[index];
        match update {
            Update::Started { .. } => {}
            Update::Token { token, text } => {
                part.text.push_str(&text);
                if self.wants_logprobs {
                    part.pending.push(token);
                }
            }
            Update::Finished(finished) => {
                part.text.push_str(&finished.text);
                part.finish_reason = Some(match finished.finish_reason {
                    FinishReason::Stop => "stop",
                    reason => finish_reason(reason, 0),
                });
                self.completion += finished.completion_tokens;
                if index.is_multiple_of(self.n) {
                    self.cached += finished.cached_tokens;
                }
            }
        }
        part.note_logprobs(&self.tokenizer);
    }

    fn usage(&self) -> Usage {
        Usage::new(self.prompt_tokens, self.cached, self.completion, 0)
    }

    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        let (id, model) = (self.id.clone(), self.model.clone());
        Completion { id, object: "text_completion", created: self.created, model, choices, usage }
    }
}

impl TextPart {
    fn note_logprobs(&mut self, tokenizer: &Tokenizer) {
        for token in self.pending.drain(..) {
            let text = token_text(tokenizer, token.token_id);
            self.logprobs.text_offset.push(self.offset);
            self.offset += text.chars().count();
            self.logprobs.tokens.push(text);
            self.logprobs.token_logprobs.push(token.logprob.max(-9999.0));
            let top =
                token.top.iter().map(|&(id, logprob)| (token_text(tokenizer, id), logprob.max(-9999.0)));
            self.logprobs.top_logprobs.push(top.collect());
        }
    }

    /// What was not sent yet.
    fn choice(&mut self, index: usize, wants_logprobs: bool) -> CompletionChoice {
        let text = self.text[self.said..].to_owned();
        self.said = self.text.len();
        let logprobs = std::mem::take(&mut self.logprobs);
        let logprobs = wants_logprobs.then_some(logprobs);
        CompletionChoice { index, text, logprobs, finish_reason: self.finish_reason }
    }
}

impl Script for Texts {
    const CONTENT_TYPE: &'static str = "application/json";
    const KEEP_ALIVE: &'static str = "\n";

    fn hear(&mut self, index: usize, update: Update, _: &mut String) -> ApiResult<()> {
        self.take(index, update);
        Ok(())
    }

    fn end(&mut self, out: &mut String) {
        let wants = self.wants_logprobs;
        let choices =
            self.parts.iter_mut().enumerate().map(|(index, part)| part.choice(index, wants)).collect();
        out.push_str(&json(&self.completion(choices, Some(self.usage()))));
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        out.push_str(&json(&error.body()));
    }
}

/// The answers in pieces.
struct Pieces(Texts);

impl Script for Pieces {
    const CONTENT_TYPE: &'static str = "text/event-stream";
    const KEEP_ALIVE: &'static str = ": keep-alive\n\n";

    fn hear(&mut self, index: usize, update: Update, out: &mut String) -> ApiResult<()> {
        self.0.take(index, update);
        let wants = self.0.wants_logprobs;
        let part = &mut self.0.parts[index];
        if part.text.len() > part.said || part.finish_reason.is_some() {
            let choice = part.choice(index, wants);
            event(out, None, &self.0.completion(vec![choice], None));
        }
        Ok(())
    }

    fn end(&mut self, out: &mut String) {
        if self.0.include_usage {
            event(out, None, &self.0.completion(Vec::new(), Some(self.0.usage())));
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        event(out, None, &error.body());
        out.push_str("data: [DONE]\n\n");
    }
}
