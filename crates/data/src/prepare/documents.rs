//! From a record to ids, or to the reason why not.

use std::borrow::Cow;
use std::path::Path;

use fathom_text::{BulkEncoder, BulkTokenizer, ChatInput, ChatPrompt, ChatTemplate, Message};
use serde_json::json;
use twox_hash::XxHash3_128;

use super::clean::{Judge, Words, normalize};
use super::config::{Deduplication, Format, Invalid, Kind, Normalize, PrepareConfig, SourceConfig};
use super::contamination::Benchmarks;
use super::counts::Counts;
use super::duplicates::{Bands, Signer};
use super::fill_in_the_middle::{Draw, Markup};
use super::input::{InputFile, RawRecords, Template, place_name, read_messages};
use super::stage::Kept;
use crate::{Error, Result, TokenizerEntry};

/// Records that are read before the first of them is judged; conversations among them are rendered together.
const TOGETHER: usize = 64;

/// What all threads use: the configuration, made ready.
pub(crate) struct Recipe {
    seed: u64,
    validation: f64,
    normalize: Normalize,
    sources: Vec<SourceRecipe>,
    benchmarks: Option<Benchmarks>,
    tokens: Tokens,
}

/// The same of one source.
pub(crate) struct SourceRecipe {
    kind: Kind,
    field: String,
    template: Template,
    on_invalid: Invalid,
    judge: Judge,
    /// How it looks for near duplicates, if it does.
    signer: Option<Signer>,
    pub(crate) deduplication: Deduplication,
    fill_in_the_middle: f64,
}

/// The tokenizer, and the tokens around documents.
pub(crate) struct Tokens {
    pub(crate) bulk: BulkTokenizer,
    chat: Option<ChatTemplate>,
    bos: Option<u32>,
    eos: u32,
    markup: Option<Markup>,
    /// Bytes of each id that is an added token, 0 for the others.
    added_bytes: Vec<u32>,
    entry: TokenizerEntry,
    /// Of the tokenizer's files.
    fingerprint: String,
}

/// What a batch of records has become.
#[derive(Debug, Default)]
pub(crate) struct Processed {
    pub(crate) kept: Vec<Kept>,
    pub(crate) ids: Vec<u32>,
    pub(crate) keys: Vec<u64>,
    pub(crate) counts: Counts,
}

/// What one thread works with.
pub(crate) struct Worker<'a> {
    recipe: &'a Recipe,
    encoder: BulkEncoder<'a>,
    signers: Vec<Option<Signer>>,
    words: Words,
}

impl Tokens {
    /// Of the tokenizer in `directory`, as far as `config` needs it.
    pub(crate) fn new(config: &PrepareConfig, bulk: BulkTokenizer, directory: &Path) -> Result<Self> {
        let tokenizer = bulk.tokenizer();
        let eos = tokenizer.eos_token_id();
        let eos = eos.ok_or_else(|| Error::NoEndOfDocument { directory: directory.to_owned() })?;
        let bos = tokenizer.bos_token_id();
        let chats = config.source.iter().any(|source| source.kind == Kind::Chat);
        let chat = chats.then(|| ChatTemplate::from_dir(directory)).transpose()?;
        let gaps = config.source.iter().any(|source| rate(config, source) > 0.0);
        let markup = gaps.then(|| Markup::of(tokenizer, directory)).transpose()?;
        let bytes = |id| match tokenizer.is_added(id) {
            true => tokenizer.id_to_token(id).map_or(0, |token| token.len() as u32),
            false => 0,
        };
        let entry = TokenizerEntry::new(tokenizer, directory)?;
        let added_bytes = (0..entry.vocab_size).map(bytes).collect();
        let template = chat.as_ref().map(ChatTemplate::source);
        let fingerprint = json!([entry, template]).to_string();
        Ok(Self { chat, bos, eos, markup, added_bytes, entry, fingerprint, bulk })
    }
}

/// The rate of fill-in-the-middle of a source.
fn rate(config: &PrepareConfig, source: &SourceConfig) -> f64 {
    match source.kind {
        Kind::Chat => 0.0,
        Kind::Text => source.fill_in_the_middle.unwrap_or(config.fill_in_the_middle.rate),
    }
}

impl SourceRecipe {
    fn new(config: &PrepareConfig, source: &SourceConfig) -> Self {
        let default = match (config.deduplicate.exact, config.deduplicate.near) {
            (_, true) => Deduplication::Near,
            (true, false) => Deduplication::Exact,
            (false, false) => Deduplication::None,
        };
        let deduplication = source.deduplicate.unwrap_or(default);
        let template = source.template.as_ref().map_or_else(
            || Template::field(source.field()),
            |template| Template::parse(template).expect("templates are checked with the configuration"),
        );
        Self {
            kind: source.kind,
            field: source.field().to_owned(),
            template,
            on_invalid: source.on_invalid,
            judge: Judge::new(source.filter.as_ref().unwrap_or(&config.filter)),
            signer: (deduplication == Deduplication::Near).then(|| Signer::new(&config.deduplicate)),
            deduplication,
            fill_in_the_middle: rate(config, source),
        }
    }
}

impl Recipe {
    pub(crate) fn new(config: &PrepareConfig, tokens: Tokens, benchmarks: Option<Benchmarks>) -> Self {
        Self {
            seed: config.seed,
            validation: config.pack.validation,
            normalize: config.normalize.clone(),
            sources: config.source.iter().map(|source| SourceRecipe::new(config, source)).collect(),
            benchmarks,
            tokens,
        }
    }

    pub(crate) fn vocab_size(&self) -> u32 {
        self.tokens.entry.vocab_size
    }

    pub(crate) fn tokenizer(&self) -> TokenizerEntry {
        self.tokens.entry.clone()
    }

    /// Names everything but the input files that stages depend on.
    pub(crate) fn fingerprint(&self, config: &PrepareConfig) -> String {
        let gaps = self.sources.iter().any(|source| source.fill_in_the_middle > 0.0);
        let parts = json!([
            self.tokens.fingerprint,
            self.benchmarks.as_ref().map(Benchmarks::fingerprint),
            config.normalize,
            config.filter,
            config.deduplicate,
            gaps.then_some((config.seed, config.pack.validation, config.fill_in_the_middle.rate)),
        ]);
        format!("{:032x}", XxHash3_128::oneshot(parts.to_string().as_bytes()))
    }

    pub(crate) fn source(&self, source: usize) -> &SourceRecipe {
        &self.sources[source]
    }

    pub(crate) fn worker(&self) -> Worker<'_> {
        Worker {
            recipe: self,
            encoder: self.tokens.bulk.encoder(),
            signers: self.sources.iter().map(|source| source.signer.clone()).collect(),
            words: Words::default(),
        }
    }

    /// Keys that each document of a source has in its stage.
    pub(crate) fn bands(&self, config: &PrepareConfig, source: usize) -> usize {
        self.sources[source].signer.as_ref().map_or(0, |_| Bands::of(&config.deduplicate).count)
    }
}

/// Whether a document of this hash is for validation: the same in every run.
pub(crate) fn is_validation(hash: u128, share: f64) -> bool {
    (hash as u64 as f64) < share * 2f64.powi(64)
}

/// A record that could be read.
struct Document<'a> {
    /// Bytes of its text before it was normalised.
    bytes_in: usize,
    text: Cow<'a, str>,
    /// Of a conversation.
    ids: Option<Vec<u32>>,
}

impl Worker<'_> {
    /// All records of a batch. The result depends on nothing else.
    pub(crate) fn process(&mut self, file: &InputFile, records: &RawRecords) -> Result<Processed> {
        let mut processed = Processed::default();
        let source = &self.recipe.sources[file.source];
        let records: Vec<_> = records.iter().collect();
        for records in records.chunks(TOGETHER) {
            let documents = match source.kind {
                Kind::Chat => self.read_chats(source, records),
                Kind::Text => {
                    records.iter().map(|(bytes, _)| self.read_text(source, file.format, bytes)).collect()
                }
            };
            for (document, (_, place)) in documents.into_iter().zip(records) {
                match document {
                    Ok(document) => self.keep(document, file.source, &mut processed)?,
                    Err(_) if source.on_invalid == Invalid::Skip => processed.counts.invalid += 1,
                    Err(reason) => {
                        let (path, place) =
                            (file.path.clone(), format!("{} {place}", place_name(file.format)));
                        return Err(Error::BadRecord { path, place, reason });
                    }
                }
            }
        }
        Ok(processed)
    }

    /// The text of a record, or what is wrong with it.
    fn read_text<'b>(
        &self,
        source: &SourceRecipe,
        format: Format,
        bytes: &'b [u8],
    ) -> std::result::Result<Document<'b>, String> {
        let text = match format {
            Format::Jsonl => source.template.read_json(bytes)?,
            _ => Cow::Borrowed(
                std::str::from_utf8(bytes).map_err(|error| format!("it is not UTF-8: {error}"))?,
            ),
        };
        let bytes_in = text.len();
        Ok(Document { bytes_in, text: normalize(text, &self.recipe.normalize), ids: None })
    }

    /// Conversations as the chat template writes them, or what is wrong with each.
    fn read_chats(
        &mut self,
        source: &SourceRecipe,
        records: &[(&[u8], u64)],
    ) -> Vec<std::result::Result<Document<'static>, String>> {
        let Recipe { tokens, normalize: how, .. } = self.recipe;
        let read = |(bytes, _): &(&[u8], u64)| {
            let mut messages = read_messages(bytes, &source.field)?;
            let texts = messages.iter_mut().flat_map(|turn| [&mut turn.content, &mut turn.reasoning_content]);
            for text in texts.flatten() {
                *text = normalize(Cow::Owned(std::mem::take(text)), how).into_owned();
            }
            Ok(messages)
        };
        let conversations: Vec<std::result::Result<Vec<Message>, String>> =
            records.iter().map(read).collect();
        let template = tokens.chat.as_ref().expect("it is read where there are conversations");
        let inputs: Vec<_> = conversations
            .iter()
            .flatten()
            .map(|messages| ChatInput { messages, ..ChatInput::default() })
            .collect();
        let mut prompts = self.encoder.encode_chats(template, &inputs).into_iter();
        let documents = conversations.iter().map(|messages| {
            messages.as_ref().map_err(String::clone)?;
            let prompt = prompts.next().expect("one of each conversation");
            let ChatPrompt { text, ids, .. } = prompt.map_err(|error| error.to_string())?;
            Ok(Document { bytes_in: text.len(), text: Cow::Owned(text), ids: Some(ids) })
        });
        documents.collect()
    }

    /// Judges and encodes a document.
    fn keep(&mut self, document: Document<'_>, source: usize, processed: &mut Processed) -> Result<()> {
        let recipe = self.recipe;
        let (text, rules) = (&*document.text, &recipe.sources[source]);
        processed.counts.documents_in += 1;
        processed.counts.text_bytes_in += document.bytes_in as u64;
        self.words.scan(text);
        if let Some(rule) = rules.judge.broken_rule(text, &self.words) {
            processed.counts.filter(rule);
            return Ok(());
        }
        if recipe.benchmarks.as_ref().is_some_and(|benchmarks| benchmarks.contaminate(&self.words)) {
            processed.counts.contaminated += 1;
            return Ok(());
        }
        let hash = XxHash3_128::oneshot(text.as_bytes());
        if let Some(signer) = &mut self.signers[source] {
            signer.sign(&self.words, hash, &mut processed.keys);
        }
        let first = processed.ids.len();
        let mut text_bytes = text.len();
        match &document.ids {
            None => self.encode(text, hash, source, processed)?,
            Some(ids) => {
                let control =
                    |&id: &u32| recipe.tokens.added_bytes.get(id as usize).copied().unwrap_or_default();
                text_bytes = text_bytes.saturating_sub(ids.iter().map(control).sum::<u32>() as usize);
                processed.ids.extend_from_slice(ids);
                if ids.last() != Some(&recipe.tokens.eos) {
                    processed.ids.push(recipe.tokens.eos);
                }
            }
        }
        let tokens = (processed.ids.len() - first) as u32;
        processed.kept.push(Kept { hash, tokens, text_bytes: text_bytes as u32 });
        processed.counts.documents_kept += 1;
        processed.counts.text_bytes_kept += text_bytes as u64;
        processed.counts.tokens_kept += u64::from(tokens);
        Ok(())
    }

    /// Appends the ids of a text between bos and eos.
    fn encode(&mut self, text: &str, hash: u128, source: usize, processed: &mut Processed) -> Result<()> {
        let Recipe { tokens, seed, validation, .. } = self.recipe;
        let draw = Draw::new(*seed, hash);
        let rate = self.recipe.sources[source].fill_in_the_middle;
        processed.ids.extend(tokens.bos);
        match &tokens.markup {
            Some(markup) if !is_validation(hash, *validation) && draw.is_chosen(rate) => {
                markup.encode(text, draw, &mut self.encoder, &mut processed.ids)?;
                processed.counts.fill_in_the_middle += 1;
            }
            _ => self.encoder.encode_plain(text, &mut processed.ids)?,
        }
        processed.ids.push(tokens.eos);
        Ok(())
    }
}
