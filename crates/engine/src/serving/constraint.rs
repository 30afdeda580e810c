//! Answers that have to follow a grammar.
//!
//! `llguidance` decides after every token which may follow (about 50 µs for 128 Ki tokens; a grammar may need
//! more). That is computed on a thread of its own while the model computes the logits, so that it costs a
//! step nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use fathom_text::{Tokenizer, with_bounded_white_space};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use crate::error::{Error, Result};

/// Largest grammar in bytes, as it was sent.
const GRAMMAR_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting of a schema.
const SCHEMA_DEPTH_MAX: usize = 64;

/// What an answer has to look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that fits a JSON Schema.
    JsonSchema(serde_json::Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// Text of a context-free grammar in llguidance's variant of Lark.
    Lark(String),
}

/// A grammar made ready for one answer.
#[derive(Clone)]
pub struct Constraint(Matcher);

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

/// Makes grammars ready for a vocabulary.
pub(super) struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// `vocab_size` as the model has it; ids without an entry in the tokenizer are never allowed.
    pub(super) fn new(tokenizer: &Tokenizer, vocab_size: usize, eos_token_ids: &[u32]) -> Result<Self> {
        let words: Vec<Vec<u8>> = (0..vocab_size as u32).map(|id| word(tokenizer, id)).collect();
        let eos = eos_token_ids.first().copied().unwrap_or(vocab_size as u32 - 1);
        let info = TokRxInfo::new(vocab_size as u32, eos);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(if eos_token_ids.is_empty() {
            std::slice::from_ref(&eos)
        } else {
            eos_token_ids
        });
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(grammar_error)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory })
    }

    /// # Errors
    /// [`Error::Grammar`] for one that is too large, malformed, or that no text can follow.
    pub(super) fn constraint(&self, grammar: &Grammar) -> Result<Constraint> {
        let text_len = match grammar {
            Grammar::JsonObject => 0,
            Grammar::JsonSchema(schema) => {
                check_depth(schema, SCHEMA_DEPTH_MAX)?;
                schema.to_string().len()
            }
            Grammar::Regex(text) | Grammar::Lark(text) => text.len(),
        };
        if text_len > GRAMMAR_BYTES_MAX {
            let message = format!("it has {text_len} bytes; allowed: {GRAMMAR_BYTES_MAX}");
            return Err(Error::Grammar { message });
        }
        let top = match grammar {
            Grammar::JsonObject => {
                let object = serde_json::json!({ "type": "object" });
                TopLevelGrammar::from_json_schema(with_bounded_white_space(&object))
            }
            Grammar::JsonSchema(schema) => {
                TopLevelGrammar::from_json_schema(with_bounded_white_space(schema))
            }
            Grammar::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            Grammar::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let parser = self.factory.create_parser(top).map_err(grammar_error)?;
        let mut matcher = Matcher::new(Ok(parser));
        matcher.compute_mask().map_err(grammar_error)?;
        Ok(Constraint(matcher))
    }
}

fn grammar_error(error: impl fmt::Display) -> Error {
    Error::Grammar { message: error.to_string() }
}

fn check_depth(value: &serde_json::Value, left: usize) -> Result<()> {
    let deeper = |value| match left.checked_sub(1) {
        Some(left) => check_depth(value, left),
        None => {
            Err(Error::Grammar { message: format!("it is nested deeper than {SCHEMA_DEPTH_MAX} levels") })
        }
    };
    match value {
        serde_json::Value::Array(values) => values.iter().try_for_each(deeper),
        serde_json::Value::Object(map) => map.values().try_for_each(deeper),
        _ => Ok(()),
    }
}

/// The bytes of a token; added tokens are marked, so that no text is taken for them.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    match tokenizer.token_bytes(id) {
        Some(bytes) if tokenizer.is_added(id) => {
            let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
            marked.extend(bytes);
            marked
        }
        Some(bytes) => bytes,
        None => Vec::new(),
    }
}

/// The tokens that may come next, one bit each.
#[derive(Clone, Debug)]
pub(crate) struct Allowed(SimpleVob);

impl Allowed {
    pub(crate) fn contains(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }
}

impl Constraint {
    /// Moves on by a token of the answer.
    pub(super) fn consume(&mut self, token: u32) -> Result<()> {
        self.0.consume_token(token).map_err(grammar_error)
    }

    /// Which tokens may come next; an end token where the grammar is complete.
    pub(super) fn allowed(&mut self) -> Result<Allowed> {
        self.0.compute_mask_or_eos().map(Allowed).map_err(grammar_error)
    }

    /// Whether only an end token can follow.
    pub(super) fn is_complete(&self) -> bool {
        self.0.is_stopped()
    }
}

/// A constraint on its way to the thread that computes what it allows, or back.
type Errand = (u64, Constraint, Option<Result<Allowed>>);

/// Computes what constraints allow beside the model.
pub(super) struct MaskWorker {
    errands: Sender<Errand>,
    done: Receiver<Errand>,
    under_way: usize,
}

impl MaskWorker {
    pub(super) fn start() -> std::io::Result<Self> {
        let (errands, inbox) = channel::<Errand>();
        let (outbox, done) = channel();
        std::thread::Builder::new().name("masks".to_owned()).spawn(move || {
            for (id, mut constraint, _) in inbox {
                let allowed = constraint.allowed();
                if outbox.send((id, constraint, Some(allowed))).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { errands, done, under_way: 0 })
    }

    pub(super) fn send(&mut self, id: u64, constraint: Constraint) {
        self.errands.send((id, constraint, None)).expect("the thread lives as long as its worker");
        self.under_way += 1;
    }

    /// Everything that was sent.
    pub(super) fn collect(&mut self) -> Vec<(u64, Constraint, Result<Allowed>)> {
        let count = std::mem::take(&mut self.under_way);
        let one = || self.done.recv().expect("the thread lives as long as its worker");
        let back = (0..count).map(|_| one());
        back.map(|(id, constraint, allowed)| (id, constraint, allowed.expect("it was computed"))).collect()
    }
}
