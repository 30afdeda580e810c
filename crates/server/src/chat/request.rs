//! The body of a chat request.

use std::collections::BTreeMap;
use std::time::Instant;

use fathom_engine::{Grammar, SamplingParams};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::message::{ChatMessage, convert};
use super::script::Style;
use crate::admission::Caller;
use crate::api_error::{ApiError, ApiResult};
use crate::app::App;
use crate::body;
use crate::prompt::{self, Choice, Conversation};
use crate::run::Job;

/// Fields of OpenAI's API that cannot change an answer here.
const IGNORED: [&str; 10] = [
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prediction",
    "modalities",
    "reasoning_split",
    "extra_headers",
];

/// Longest `user_id` in bytes.
const USER_ID_MAX: usize = 512;

/// A request to answer a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatRequest {
    /// The model's id, or another name under which this server knows it.
    model: String,
    /// The conversation, oldest turn first.
    messages: Vec<ChatMessage>,
    /// Send the answer piece by piece.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Longest answer in tokens, reasoning included.
    max_tokens: Option<usize>,
    /// The newer name of `max_tokens`; wins over it.
    max_completion_tokens: Option<usize>,
    /// 0 (always the likeliest token) to 2. Default: what the model's authors recommend.
    temperature: Option<f32>,
    /// Keep the likeliest tokens that together have this probability.
    top_p: Option<f32>,
    /// Keep this many of the likeliest tokens. (Not in DeepSeek's API.)
    top_k: Option<usize>,
    /// Keep tokens at least this probable relative to the likeliest. (Not in DeepSeek's API.)
    min_p: Option<f32>,
    /// Above 1: against repetition. (Not in DeepSeek's API.)
    repetition_penalty: Option<f32>,
    /// -2 to 2, per occurrence in the answer.
    frequency_penalty: Option<f32>,
    /// -2 to 2, for tokens that occur in the answer.
    presence_penalty: Option<f32>,
    /// Added to the logits of these token ids, -100 to 100.
    logit_bias: Option<BTreeMap<String, f32>>,
    /// Same seed, same answer.
    seed: Option<i64>,
    /// The answer ends before the first of these.
    stop: Option<Stop>,
    /// Number of answers.
    n: Option<usize>,
    /// Report log-probabilities.
    logprobs: Option<bool>,
    /// With this many alternatives, at most 20.
    top_logprobs: Option<usize>,
    response_format: Option<ResponseFormat>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<ToolChoiceField>,
    /// False: at most one call of a tool.
    parallel_tool_calls: Option<bool>,
    /// Whether a model that can do both thinks before it answers.
    thinking: Option<Thinking>,
    /// `none` turns thinking off. Other values are accepted and change nothing: these models know no degrees.
    reasoning_effort: Option<ReasoningEffort>,
    /// Variables of the chat template; only `thinking` and `enable_thinking` are read.
    chat_template_kwargs: Option<TemplateVariables>,
    /// Separates the cached prefixes of your users from each other.
    user_id: Option<String>,
    /// OpenAI's name of `user_id`.
    user: Option<String>,
}

/// How to stream.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// Report the usage in a last chunk without choices.
    #[serde(default)]
    pub(crate) include_usage: Option<bool>,
    /// Ignored.
    #[serde(default, rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// One stop string or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Stop {
    One(String),
    Many(Vec<String>),
}

/// The form of the answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResponseFormat {
    r#type: FormatType,
    /// For `json_schema`.
    json_schema: Option<JsonSchema>,
    /// For `regex`. (Not in DeepSeek's API.)
    regex: Option<String>,
    /// For `grammar`: in the Lark dialect of llguidance. (Not in DeepSeek's API.)
    grammar: Option<String>,
}

/// Forms of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FormatType {
    Text,
    JsonObject,
    JsonSchema,
    Regex,
    Grammar,
}

/// A schema that the answer fits.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct JsonSchema {
    /// Ignored.
    #[serde(rename = "name")]
    _name: Option<String>,
    /// Ignored.
    #[serde(rename = "description")]
    _description: Option<String>,
    #[schema(value_type = Option<Object>)]
    schema: Option<Value>,
    /// Ignored: the schema always holds.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

/// A tool on offer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Tool {
    /// `function`.
    r#type: ToolType,
    function: Function,
}

/// Kinds of tools.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ToolType {
    Function,
}

/// A function that the model may call.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Function {
    /// 1 to 64 of a-z A-Z 0-9 _ -
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// JSON Schema of the arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    parameters: Option<Map<String, Value>>,
    /// Hold the arguments to the schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

/// Whether tools may, must or must not be called, or which one must be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum ToolChoiceField {
    Mode(ToolMode),
    Named(NamedTool),
}

/// Whether tools may, must or must not be called.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ToolMode {
    None,
    Auto,
    Required,
}

/// The tool that must be called.
#[derive(Debug, Deserialize, ToSchema)]
struct NamedTool {
    /// `function`.
    #[serde(rename = "type")]
    _type: ToolType,
    function: FunctionName,
}

/// The name of a function.
#[derive(Debug, Deserialize, ToSchema)]
struct FunctionName {
    name: String,
}

/// Whether to think.
#[derive(Debug, Deserialize, ToSchema)]
struct Thinking {
    r#type: ThinkingType,
}

/// Whether to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ThinkingType {
    Enabled,
    Disabled,
}

/// How much to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ReasoningEffort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
    Ultra,
}

/// Variables of the chat template.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TemplateVariables {
    thinking: Option<bool>,
    enable_thinking: Option<bool>,
}

/// A chat request, ready to be submitted.
pub(crate) struct Prepared {
    pub(crate) job: Job,
    pub(crate) style: Style,
}

/// Parses and checks a request, writes its prompt and compiles its grammar. Takes milliseconds.
pub(crate) fn prepare(app: &App, key_id: String, bytes: &[u8], arrived: Instant) -> ApiResult<Prepared> {
    let mut request: ChatRequest = body::parse(bytes, &IGNORED)?;
    app.check_model(&request.model)?;
    if request.messages.len() > app.config.max_messages {
        let message = format!("{} messages; at most {}", request.messages.len(), app.config.max_messages);
        return Err(ApiError::param("messages", message));
    }
    let n = choices(request.n, app.config.max_choices)?;
    let user_id = user_id(request.user_id.take().or(request.user.take()))?;
    let params = request.params(app)?;
    let thinking = request.thinking(app);
    let form = request.form()?;
    let (messages, prefix) = convert(std::mem::take(&mut request.messages))?;
    let choice = match &request.tool_choice {
        None | Some(ToolChoiceField::Mode(ToolMode::Auto)) => Choice::Auto,
        Some(ToolChoiceField::Mode(ToolMode::None)) => Choice::None,
        Some(ToolChoiceField::Mode(ToolMode::Required)) => Choice::Required,
        Some(ToolChoiceField::Named(tool)) => Choice::Named(tool.function.name.clone()),
    };
    let tools: Vec<Value> = request.tools.iter().flatten().map(|tool| json!(tool)).collect();
    let known = |name: &String| tools.iter().any(|tool| tool["function"]["name"] == **name);
    match &choice {
        Choice::Required if tools.is_empty() => {
            return Err(ApiError::param("tool_choice", "`required` without `tools`"));
        }
        Choice::Named(name) if !known(name) => {
            return Err(ApiError::param("tool_choice", "the named function is not among `tools`"));
        }
        _ => {}
    }
    let one_call = request.parallel_tool_calls == Some(false);
    let prompt =
        prompt::write(app, Conversation { messages, tools, choice, one_call, thinking, prefix, form })?;
    let constraint = prompt.grammar.map(|grammar| app.engine.constraint(&grammar)).transpose()?;
    if app.config.log_prompts {
        let text = app.words.tokenizer.decode(&prompt.ids, false).unwrap_or_default();
        tracing::info!(prompt = text, "chat");
    }
    let style = Style {
        model: app.model_id.clone(),
        n,
        prompt_tokens: prompt.ids.len(),
        reading: prompt.reading,
        logprobs: params.logprobs.is_some(),
        stream: request.stream == Some(true),
        include_usage: request.stream_options.is_some_and(|options| options.include_usage == Some(true)),
    };
    let caller = Caller { key_id, user_id };
    let job = Job { route: "chat", caller, prompts: vec![prompt.ids], params, n, constraint, arrived };
    Ok(Prepared { job, style })
}

impl ChatRequest {
    /// The authors' recommendation, with what the request says.
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
        params.max_tokens = self.max_completion_tokens.or(self.max_tokens).or(params.max_tokens);
        params.logit_bias = logit_bias(self.logit_bias.as_ref())?;
        params.stop = stops(self.stop.as_ref());
        if self.top_logprobs.is_some() && self.logprobs != Some(true) {
            return Err(ApiError::param("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
        }
        params.logprobs = (self.logprobs == Some(true)).then(|| self.top_logprobs.unwrap_or(0));
        params.validate(app.engine.config().vocab_size)?;
        Ok(params)
    }

    fn thinking(&self, app: &App) -> Option<bool> {
        let switch = self.thinking.as_ref().map(|thinking| thinking.r#type == ThinkingType::Enabled);
        let effort = self.reasoning_effort.filter(|&effort| effort == ReasoningEffort::None).map(|_| false);
        let variables = self.chat_template_kwargs.as_ref();
        let variable = variables.and_then(|variables| variables.thinking.or(variables.enable_thinking));
        switch.or(effort).or(variable).or_else(|| app.default_thinking(&self.model))
    }

    fn form(&mut self) -> ApiResult<Option<Grammar>> {
        let Some(format) = self.response_format.take() else { return Ok(None) };
        let missing = |field: &str| {
            ApiError::param(format!("response_format.{field}"), format!("this type needs `{field}`"))
        };
        Ok(Some(match format.r#type {
            FormatType::Text => return Ok(None),
            FormatType::JsonObject => Grammar::JsonObject,
            FormatType::JsonSchema => {
                let schema = format.json_schema.and_then(|schema| schema.schema);
                Grammar::JsonSchema(schema.ok_or_else(|| missing("json_schema.schema"))?)
            }
            FormatType::Regex => Grammar::Regex(format.regex.ok_or_else(|| missing("regex"))?),
            FormatType::Grammar => Grammar::Lark(format.grammar.ok_or_else(|| missing("grammar"))?),
        }))
    }
}

/// `n`, within its limit.
pub(crate) fn choices(n: Option<usize>, most: usize) -> ApiResult<usize> {
    match n.unwrap_or(1) {
        n if (1..=most).contains(&n) => Ok(n),
        n => Err(ApiError::param("n", format!("`n` is {n}; allowed: 1 to {most}"))),
    }
}

/// The user, if its name is not too long.
pub(crate) fn user_id(user_id: Option<String>) -> ApiResult<Option<String>> {
    match &user_id {
        Some(id) if id.len() > USER_ID_MAX => {
            Err(ApiError::param("user_id", format!("{} bytes; at most {USER_ID_MAX}", id.len())))
        }
        _ => Ok(user_id),
    }
}

/// Token ids are the names of the object's fields.
pub(crate) fn logit_bias(bias: Option<&BTreeMap<String, f32>>) -> ApiResult<Vec<(u32, f32)>> {
    let read = |(id, &bias): (&String, &f32)| match id.parse() {
        Ok(id) => Ok((id, bias)),
        Err(_) => Err(ApiError::param("logit_bias", "its names must be token ids")),
    };
    bias.into_iter().flatten().map(read).collect()
}

/// Stop strings; `""`, which some clients send for none, is none.
pub(crate) fn stops(stop: Option<&Stop>) -> Vec<String> {
    match stop {
        None => Vec::new(),
        Some(Stop::One(one)) if one.is_empty() => Vec::new(),
        Some(Stop::One(one)) => vec![one.clone()],
        Some(Stop::Many(many)) => many.clone(),
    }
}
