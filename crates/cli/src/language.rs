//! The words of a model: tokenizer, chat template, recommended sampling.

use anyhow::{Result, bail};
use fathom_engine::Language;
use fathom_text::{ChatInput, ChatTemplate, Message, ReasoningSplitter, Tokenizer, encode_chat};
use serde_json::{Map, Value};

/// A prompt, ready for the model.
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    /// The template has already opened the reasoning.
    pub(crate) starts_in_reasoning: bool,
}

impl Prompt {
    /// Takes apart the answer to this prompt.
    pub(crate) fn splitter(&self) -> ReasoningSplitter {
        ReasoningSplitter::new(self.starts_in_reasoning)
    }
}

/// Writes conversations down as the model was trained on them.
pub(crate) struct ChatWriter<'a> {
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    variables: Map<String, Value>,
}

impl<'a> ChatWriter<'a> {
    /// With the model's own template. `thinking` is handed to templates that know it.
    pub(crate) fn new(language: &Language, tokenizer: &'a Tokenizer, thinking: Option<bool>) -> Result<Self> {
        let template = language.chat_template()?;
        let variables = thinking.map(|thinking| ("thinking".to_owned(), Value::from(thinking)));
        Ok(Self { tokenizer, template, variables: variables.into_iter().collect() })
    }

    /// The prompt that asks for the next answer.
    pub(crate) fn prompt(&self, messages: &[Message]) -> Result<Prompt> {
        let input = ChatInput { extra: self.variables.clone(), ..ChatInput::to_answer(messages) };
        let prompt = encode_chat(&self.template, self.tokenizer, &input)?;
        if prompt.ids.is_empty() {
            bail!(
                "the prompt is empty: the chat template rendered to nothing; correct the template, or send text as \
                 it is with `fathom generate --raw`"
            );
        }
        Ok(Prompt { ids: prompt.ids, starts_in_reasoning: prompt.starts_in_reasoning })
    }
}
