//! Chat templates: Jinja source that a model brings, rendered as Hugging Face renders it.
//!
//! transformers compiles templates with `trim_blocks`, `lstrip_blocks` and loop controls, and adds
//! `raise_exception`, `strftime_now`, its own `tojson` and `{% generation %}` (which marks the assistant's
//! tokens and is nothing to the text). minijinja with its Python methods does the same here.
//!
//! A template is code from a stranger. There is no loader: nothing can be included or read. Recursion has a
//! limit, and a render has a budget of work ([`BASE_FUEL`] and a share per part of the input). Two things escape
//! the engine's budget, so a render also has a thread to itself: dropping a deeply nested value needs stack
//! (the thread has as much as its budget can nest), and comparing or concatenating a value that contains
//! itself 2^n times is charged only when it is done (after [`DEADLINE`] the caller stops waiting and gets an error).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, escape_formatter};
use serde_json::{Map, Value, json};

use crate::chat::ChatInput;
use crate::config::{NamedTemplate, SpecialTokens, TokenizerConfig};
use crate::error::{Error, Result};
use crate::files::{malformed, read_if_present};
use crate::python;

mod renderers;

use renderers::{Answer, Failure, Renderers};

/// The template file that, if present, counts instead of the one in `tokenizer_config.json`.
pub(crate) const TEMPLATE_FILE: &str = "chat_template.jinja";
pub(crate) const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// Instructions (or 64 bytes copied) that a render may spend, besides its share per input
/// ([`honest_work`]). A DeepSeek template spends about a hundred per message.
const BASE_FUEL: u64 = 200_000;

/// What one unit of fuel can nest, in bytes of stack to drop it: a list level costs at least one and a half
/// units and was measured to need less than 100 bytes.
const STACK_PER_FUEL: u64 = 160;
const BASE_STACK: u64 = 2 << 20;

/// How long a caller waits. An honest render takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    file: PathBuf,
    special_tokens: SpecialTokens,
    source: String,
    renderers: Arc<Renderers>,
}

impl ChatTemplate {
    /// Reads a model folder: `chat_template.jinja` if it is there, else the `chat_template` of
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] if there is neither; an unreadable file; otherwise as [`Self::from_source`].
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let config = TokenizerConfig::from_dir(dir)?;
        let file = dir.join(TEMPLATE_FILE);
        match read_if_present(&file)? {
            Some(bytes) => {
                let source = String::from_utf8(bytes).map_err(|error| malformed(&file, error.to_string()))?;
                Self::from_source(&source, &file, &config.special_tokens)
            }
            None if config.chat_templates.is_empty() => {
                Err(Error::NoChatTemplate { place: dir.to_path_buf() })
            }
            None => Self::from_tokenizer_config(&config),
        }
    }

    /// Takes the template or templates of a `tokenizer_config.json`: `default`, and `tool_use` for
    /// conversations with tools if there is one.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] if there is none; otherwise as [`Self::from_source`].
    pub fn from_tokenizer_config(config: &TokenizerConfig) -> Result<Self> {
        Self::compile(&config.chat_templates, &config.file, &config.special_tokens)
    }

    /// Compiles Jinja source; `file` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Template`] with the line that does not parse.
    pub fn from_source(source: &str, file: &Path, special_tokens: &SpecialTokens) -> Result<Self> {
        let only = NamedTemplate { name: DEFAULT.into(), template: source.to_owned() };
        Self::compile(&[only], file, special_tokens)
    }

    fn compile(templates: &[NamedTemplate], file: &Path, special_tokens: &SpecialTokens) -> Result<Self> {
        if !templates.iter().any(|template| template.name == DEFAULT) {
            return Err(Error::NoChatTemplate { place: file.to_path_buf() });
        }
        let mut env = environment();
        for template in templates.iter().filter(|template| [DEFAULT, TOOL_USE].contains(&&*template.name)) {
            env.add_template_owned(template.name.clone(), without_generation_tags(&template.template))
                .map_err(|error| template_error(file, &error))?;
        }
        let source = |name| templates.iter().find(|template| template.name == name);
        let source = source(TOOL_USE).or(source(DEFAULT)).map(|template| template.template.clone());
        Ok(Self {
            env,
            file: file.to_path_buf(),
            special_tokens: special_tokens.clone(),
            source: source.unwrap_or_default(),
            renderers: Arc::default(),
        })
    }

    /// The Jinja source; if there are two, the one for conversations with tools.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template does anything with the variable `tools`.
    pub fn shows_tools(&self) -> bool {
        let word = |c: char| c == '_' || c == '▁' || c.is_alphanumeric();
        self.source.match_indices("tools").any(|(at, tools)| {
            !self.source[..at].ends_with(word) && !self.source[at + tools.len()..].starts_with(word)
        })
    }

    /// The prompt of a conversation.
    ///
    /// # Errors
    /// [`Error::Template`] if the template refuses the conversation, meets a value it cannot handle, or
    /// spends more than its budget.
    pub fn render(&self, input: &ChatInput) -> Result<String> {
        let job = Job::new(self, input);
        let (fuel, mut env) = (job.fuel, self.env.clone());
        let mut answers = self.within(DEADLINE, fuel, move || vec![job.render(&mut env)])?;
        answers.pop().expect("one job has one answer").map_err(|error| template_error(&self.file, &error))
    }

    /// The prompts of many conversations, rendered one after the other in one thread.
    ///
    /// # Errors
    /// Of a conversation, as [`Self::render`].
    pub fn render_all(&self, inputs: &[ChatInput]) -> Vec<Result<String>> {
        let jobs: Vec<Job> = inputs.iter().map(|input| Job::new(self, input)).collect();
        let fuel = jobs.iter().map(|job| job.fuel).max().unwrap_or_default();
        let mut env = self.env.clone();
        let work = move || jobs.into_iter().map(|job| job.render(&mut env)).collect();
        let answers = self.within(DEADLINE, fuel, work);
        let told = |answer: Answer| answer.map_err(|error| template_error(&self.file, &error));
        match answers {
            Ok(answers) => answers.into_iter().map(told).collect(),
            // One of them did it, and it is to blame alone.
            Err(_) => inputs.iter().map(|input| self.render(input)).collect(),
        }
    }

    /// Runs `work` in a thread with the stack that `fuel` calls for, and waits for at most `deadline`.
    fn within(
        &self,
        deadline: Duration,
        fuel: u64,
        work: impl FnOnce() -> Vec<Answer> + Send + 'static,
    ) -> Result<Vec<Answer>> {
        let stack = usize::try_from(BASE_STACK + fuel * STACK_PER_FUEL).unwrap_or(usize::MAX);
        let reason = match self.renderers.run(stack, deadline, work) {
            Ok(answers) => return Ok(answers),
            Err(Failure::NoThread(error)) => format!("no thread to render it in: {error}"),
            Err(Failure::Late) => format!("it did not finish within {} s", deadline.as_secs_f32()),
            Err(Failure::Panicked) => "the template engine failed".to_owned(),
        };
        Err(Error::Template { file: self.file.clone(), line: 0, reason })
    }
}

/// What one render needs.
struct Job {
    context: Map<String, Value>,
    template: &'static str,
    now: Option<SystemTime>,
    fuel: u64,
}

impl Job {
    fn new(template: &ChatTemplate, input: &ChatInput) -> Self {
        let mut context: Map<String, Value> = Map::new();
        context.extend(template.special_tokens.iter().map(|(name, token)| (name.to_owned(), token.into())));
        context.insert("messages".into(), json!(input.messages));
        context.insert("tools".into(), json!(input.tools));
        context.insert("documents".into(), Value::Null);
        context.insert("add_generation_prompt".into(), input.add_generation_prompt.into());
        context.extend(input.extra.clone());
        let fuel = BASE_FUEL + honest_work(&context);
        let template = match input.tools {
            Some([_, ..]) if template.env.get_template(TOOL_USE).is_ok() => TOOL_USE,
            _ => DEFAULT,
        };
        Self { context, template, now: input.now, fuel }
    }

    fn render(self, env: &mut Environment<'static>) -> Answer {
        env.set_fuel(Some(self.fuel));
        let now = self.now;
        env.add_function("strftime_now", move |format: &str| {
            python::strftime(format, now.unwrap_or_else(SystemTime::now))
        });
        env.get_template(self.template)?.render(Serde(&self.context))
    }
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the delimiters are the default ones"));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(python::call_method);
    env.set_formatter(|out, state, value| {
        python::pay_to_print(state, value, 0)?;
        escape_formatter(out, state, value)
    });
    env.add_filter("string", python::string);
    env.add_filter("tojson", python::tojson);
    env.add_function("raise_exception", |reason: String| -> std::result::Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
    });
    env
}

/// Replaces `{% generation %} … {% endgeneration %}` by a block that is always taken, so that white space
/// around the tags is treated as around any other tag.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        // Behind the opening: `{%}` closes nothing.
        let Some(end) = tag[2..].find("%}").map(|at| at + 2) else {
            rest = tag;
            break;
        };
        let inside = &tag[2..end];
        let name = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let name_start = inside.find(name).unwrap_or(0);
        let instead = match name {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => name,
        };
        out.push_str("{%");
        out.push_str(&inside[..name_start]);
        out.push_str(instead);
        out.push_str(&inside[name_start + name.len()..]);
        out.push_str("%}");
        rest = &tag[end + 2..];
    }
    out.push_str(rest);
    out
}

/// The fuel that an honest template may need for a context: 200 per value and one per four
/// bytes of text, which pays for sixteen copies.
fn honest_work(context: &Map<String, Value>) -> u64 {
    fn of(value: &Value) -> u64 {
        200 + match value {
            Value::String(text) => text.len() as u64 / 4,
            Value::Array(items) => items.iter().map(of).sum(),
            Value::Object(fields) => honest_work(fields),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
    }
    context.values().map(of).sum()
}

fn template_error(file: &Path, error: &minijinja::Error) -> Error {
    let mut reason = match error.detail() {
        // The words given to raise_exception speak for themselves.
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None if error.kind() == ErrorKind::OutOfFuel => "it does too much work for this conversation".into(),
        None => error.kind().to_string(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let _ = write!(reason, ": {inner}");
        cause = inner.source();
    }
    Error::Template { file: file.to_path_buf(), line: error.line().unwrap_or(0), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_blocks_that_are_always_taken() {
        let rows = [
            ("a{% generation %}b{%- endgeneration -%}c", "a{% if true %}b{%- endif -%}c"),
            ("{%-generation%}{%+ endgeneration +%}", "{%-if true%}{%+ endif +%}"),
            (
                "{% if generation %}{{ generation }}{% endif %}",
                "{% if generation %}{{ generation }}{% endif %}",
            ),
            ("{%%}{% generation", "{%%}{% generation"),
            ("{%}a %}{% generation %}", "{%}a %}{% if true %}"),
            ("", ""),
        ];
        for (source, want) in rows {
            assert_eq!(without_generation_tags(source), want);
        }
    }

    #[test]
    fn a_caller_does_not_wait_for_ever() {
        let template =
            ChatTemplate::from_source("", Path::new("t.jinja"), &SpecialTokens::default()).unwrap();
        let slow = || {
            std::thread::sleep(Duration::from_secs(5));
            Vec::new()
        };
        let begun = std::time::Instant::now();
        let error = template.within(Duration::from_millis(20), 0, slow).unwrap_err();
        assert!(error.to_string().contains("did not finish within 0.02 s"), "{error}");
        drop(template);
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
}
