//! One conversation as token ids, and which of them are to be learnt.

use std::path::Path;

use fathom_text::{ChatInput, ChatTemplate, Message, Tokenizer, encode_chat};

use crate::{Error, Result};

const THINK: &str = "<think>";
const END_OF_THINK: &str = "</think>";

/// Writes conversations down as the model of a tokenizer directory reads and answers them.
#[derive(Debug)]
pub struct ChatEncoder {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    eos: u32,
}

/// A document: ids, and for each whether the model is to learn to say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatExample {
    /// Token ids, bos included if the template writes it.
    pub ids: Vec<u32>,
    /// True of answers, their reasoning and their eos.
    pub learn: Vec<bool>,
}

/// An answer as it is learnt.
struct Answer<'a> {
    reasoning: Option<&'a str>,
    /// White space around the reasoning, as DeepSeek-R1 writes it, where the message holds it apart.
    padded: bool,
    text: &'a str,
}

impl ChatEncoder {
    /// Reads tokenizer and chat template from a model's directory.
    ///
    /// # Errors
    /// Either is missing or malformed, or the tokenizer has no eos, without which no answer could end.
    pub fn from_dir(directory: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::from_dir(directory)?;
        let template = ChatTemplate::from_dir(directory)?;
        let eos = tokenizer
            .eos_token_id()
            .ok_or_else(|| Error::NoEndOfAnswer { directory: directory.to_owned() })?;
        Ok(Self { tokenizer, template, eos })
    }

    /// The documents of a conversation: one, or several where the template writes an earlier answer differently once it
    /// is history (R1's and V3.1's drop its reasoning), so that every answer is learnt in the context it will be given in.
    ///
    /// # Errors
    /// What is wrong, in words: no answer, an answer without text, a conversation that the template refuses.
    pub fn encode(&self, messages: &[Message]) -> std::result::Result<Vec<ChatExample>, String> {
        let mut examples: Vec<ChatExample> = Vec::new();
        for (turn, message) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant")
        {
            let prompt =
                encode_chat(&self.template, &self.tokenizer, &ChatInput::to_answer(&messages[..turn]))
                    .map_err(|error| error.to_string())?;
            let answer = Answer::of(message).ok_or("an answer has neither text nor reasoning")?;
            let answer =
                self.answer(&answer, prompt.starts_in_reasoning).map_err(|error| error.to_string())?;
            match examples.last_mut() {
                Some(example) if prompt.ids.starts_with(&example.ids) => example.extend(&prompt.ids, &answer),
                _ => {
                    let mut example = ChatExample::default();
                    example.extend(&prompt.ids, &answer);
                    examples.push(example);
                }
            }
        }
        if examples.is_empty() { Err("no turn of the role assistant".to_owned()) } else { Ok(examples) }
    }

    /// The ids of an answer, eos included.
    fn answer(&self, answer: &Answer<'_>, starts_in_reasoning: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if answer.reasoning.is_some() || starts_in_reasoning {
            let (lead, tail, gap) = if answer.padded { ("\n", "\n", "\n\n") } else { ("", "", "") };
            if !starts_in_reasoning {
                ids.extend(self.tokenizer.encode(THINK, false)?);
                ids.extend(self.tokenizer.encode_plain(lead)?);
            }
            let reasoning = answer.reasoning.unwrap_or_default();
            ids.extend(self.tokenizer.encode_plain(&format!("{reasoning}{tail}"))?);
            ids.extend(self.tokenizer.encode(END_OF_THINK, false)?);
            ids.extend(self.tokenizer.encode_plain(&format!("{gap}{}", answer.text))?);
        } else {
            ids.extend(self.tokenizer.encode_plain(answer.text)?);
        }
        ids.push(self.eos);
        Ok(ids)
    }
}

impl<'a> Answer<'a> {
    fn of(message: &'a Message) -> Option<Self> {
        let content = message.content.as_deref().unwrap_or_default();
        if let Some(reasoning) = &message.reasoning_content {
            return Some(Self { reasoning: Some(reasoning), padded: true, text: content });
        }
        let inside = content.strip_prefix(THINK).and_then(|rest| rest.split_once(END_OF_THINK));
        match inside {
            Some((reasoning, text)) => Some(Self { reasoning: Some(reasoning), padded: false, text }),
            None if content.is_empty() => None,
            None => Some(Self { reasoning: None, padded: false, text: content }),
        }
    }
}

impl ChatExample {
    /// Goes on to the end of `prompt`, which begins with what is there, and then with `answer`.
    fn extend(&mut self, prompt: &[u32], answer: &[u32]) {
        self.ids.extend_from_slice(&prompt[self.ids.len()..]);
        self.learn.resize(self.ids.len(), false);
        self.ids.extend_from_slice(answer);
        self.learn.resize(self.ids.len(), true);
    }
}
