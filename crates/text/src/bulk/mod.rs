//! Many documents to ids: the same ids as [`Tokenizer::encode_plain`], an order of magnitude sooner.
//!
//! For DeepSeek-V3's pre-tokenizer (with or without characters isolated before it) and plain byte-level BPE, which is
//! what `fathom data prepare` trains, words are cut without a regex engine, merged with a table of pairs, and short ones
//! remembered. Every other tokenizer takes the ordinary way.

mod cache;
mod classes;
mod han;
mod merges;
mod splitter;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use serde_json::Value;

use crate::chat::ChatInput;
use crate::control::Occurrence;
use crate::error::Result;
use crate::prompt::{ChatPrompt, Marked, encode_chat, prompt_of};
use crate::template::ChatTemplate;
use crate::tokenizer::{Tokenizer, is_control_token};
use cache::{Cache, Key};
use han::Han;
use merges::{Merges, Scratch};
pub(crate) use splitter::Splitter;

/// A tokenizer prepared for large amounts of text; one for all threads.
#[derive(Clone, Debug)]
pub struct BulkTokenizer {
    tokenizer: Tokenizer,
    fast: Option<Fast>,
}

#[derive(Clone, Debug)]
struct Fast {
    splitter: Splitter,
    merges: Merges,
    /// Whether control tokens are all that is found in text before it is cut, and nothing but their own text.
    only_control_tokens: bool,
}

/// What a thread encodes with: words that it has met are remembered.
#[derive(Debug)]
pub struct BulkEncoder<'a> {
    bulk: &'a BulkTokenizer,
    cache: Cache,
    scratch: Scratch,
}

impl BulkTokenizer {
    /// Looks whether there is a faster way for `tokenizer`.
    pub fn new(tokenizer: Tokenizer) -> Self {
        let fast = Fast::of(&tokenizer);
        Self { tokenizer, fast }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether the fast way is taken.
    pub fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    /// An encoder for one thread.
    pub fn encoder(&self) -> BulkEncoder<'_> {
        BulkEncoder { bulk: self, cache: Cache::new(), scratch: Scratch::default() }
    }
}

impl Fast {
    fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let inner = tokenizer.inner();
        if tokenizer.has_normalizer() {
            return None;
        }
        let pre_tokenizer = serde_json::to_value(inner.get_pre_tokenizer()?).ok()?;
        let splitter = Splitter::of_json(&pre_tokenizer)?;
        let model: Value = serde_json::to_value(inner.get_model()).ok()?;
        let merges = Merges::of_json(&model)?;
        // Where words can become added tokens, `encode_plain` has to look closer.
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let ids: HashSet<u32> = added.keys().copied().collect();
        let plain = merges.ids().all(|id| !ids.contains(&id));
        let only_control_tokens = added
            .values()
            .all(|token| is_control_token(token) && !token.lstrip && !token.rstrip && !token.single_word);
        plain.then_some(Self { splitter, merges, only_control_tokens })
    }
}

impl BulkEncoder<'_> {
    /// What [`encode_chat`] makes of each of these conversations; they are rendered together.
    ///
    /// # Errors
    /// Of a conversation, as [`encode_chat`].
    pub fn encode_chats(
        &mut self,
        template: &ChatTemplate,
        inputs: &[ChatInput<'_>],
    ) -> Vec<Result<ChatPrompt>> {
        let tokenizer = self.bulk.tokenizer();
        if !self.bulk.fast.as_ref().is_some_and(|fast| fast.only_control_tokens) {
            return inputs.iter().map(|input| encode_chat(template, tokenizer, input)).collect();
        }
        let marked: Vec<_> = inputs.iter().map(|input| Marked::of(template, tokenizer, input)).collect();
        let marked: Vec<_> = marked.iter().map(Marked::input).collect();
        let rendered = template.render_all(&marked);
        // Between the template's control tokens there are none but strangers', which are plain text.
        let mut encode = |text: &str, ours: &[Occurrence]| {
            let (mut ids, mut done) = (Vec::new(), 0);
            for token in ours {
                let id = tokenizer.token_to_id(&text[token.start..token.end]);
                let Some(id) = id.filter(|&id| tokenizer.is_added(id)) else { continue };
                self.encode_plain(&text[done..token.start], &mut ids)?;
                ids.push(id);
                done = token.end;
            }
            self.encode_plain(&text[done..], &mut ids)?;
            Ok(ids)
        };
        let prompts = rendered
            .into_iter()
            .map(|rendered| prompt_of(tokenizer, &rendered?, |text, ours, _| encode(text, ours)));
        prompts.collect()
    }

    /// Appends to `ids` what [`Tokenizer::encode_plain`] makes of `text`: control tokens in it are plain characters.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_plain`].
    pub fn encode_plain(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let Some(Fast { splitter, merges, .. }) = &self.bulk.fast else {
            ids.extend(self.bulk.tokenizer.encode_plain(text)?);
            return Ok(());
        };
        let (cache, scratch) = (&mut self.cache, &mut self.scratch);
        splitter.split(text, |word| {
            let word = word.as_bytes();
            if word.len() > cache::LONGEST || Han::is_long(word) {
                merges.apply(word, scratch, ids);
                return;
            }
            let key = Key::of(word);
            if let Some(found) = cache.find(key) {
                ids.extend_from_slice(found);
                return;
            }
            let first = ids.len();
            merges.apply(word, scratch, ids);
            cache.insert(key, &ids[first..]);
        });
        Ok(())
    }
}
