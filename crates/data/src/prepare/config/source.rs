//! `[[source]]`: files, and what in them is a document.

use serde::{Deserialize, Serialize};

use super::Filter;

/// Files of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// For the report and `dataset.json`.
    pub name: String,
    /// Its licence, for `dataset.json`.
    #[serde(default)]
    pub license: String,
    /// The files, as globs.
    pub paths: Vec<String>,
    /// How they are written; compression is recognised by itself (gzip, zstd, xz).
    #[serde(default)]
    pub format: Format,
    /// What a record is.
    #[serde(default)]
    pub kind: Kind,
    /// The field (column) that holds the text, or the turns of a conversation; `text` and `messages` if not given.
    pub field: Option<String>,
    /// Several fields as one text: `"{title}\n\n{body}"`.
    pub template: Option<String>,
    /// What is a document in a text file.
    #[serde(default)]
    pub documents: TextDocuments,
    /// What to do about a line that is not UTF-8 or not JSON.
    #[serde(default)]
    pub on_invalid: Invalid,
    /// A longer line or document is an error.
    #[serde(default = "max_record_bytes")]
    pub max_record_bytes: u64,
    /// How often each document is taken, on average.
    pub epochs: Option<f64>,
    /// Its part of the training tokens, against the other sources' weights.
    pub weight: Option<f64>,
    /// Filters for this source in place of the common ones.
    pub filter: Option<Filter>,
    /// Which duplicates are left out, if not what `[deduplicate]` says.
    pub deduplicate: Option<Deduplication>,
    /// The rate of fill-in-the-middle, if not the common one.
    pub fill_in_the_middle: Option<f64>,
}

fn max_record_bytes() -> u64 {
    64 << 20
}

impl SourceConfig {
    /// What decides the documents of a file: everything but what the source is called and how much of it is taken.
    pub(crate) fn of_documents(&self) -> Self {
        let (epochs, weight) = (None, None);
        Self {
            name: String::new(),
            license: String::new(),
            paths: Vec::new(),
            epochs,
            weight,
            ..self.clone()
        }
    }

    /// The field of the text or of the turns.
    pub(crate) fn field(&self) -> &str {
        self.field.as_deref().unwrap_or(match self.kind {
            Kind::Text => "text",
            Kind::Chat => "messages",
        })
    }
}

/// Ways in which documents are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// By the file's name: `.jsonl`, `.json`, `.ndjson`, `.txt`, `.md`, `.parquet`, each also with `.gz`, `.zst`, `.xz`.
    #[default]
    Auto,
    /// One JSON object a line.
    Jsonl,
    /// Text.
    Txt,
    /// Apache Parquet.
    Parquet,
}

/// What a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A text.
    #[default]
    Text,
    /// A conversation, which the tokenizer's chat template writes down; all its tokens are learnt.
    Chat,
}

/// What a document is in a text file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextDocuments {
    /// The file.
    #[default]
    File,
    /// Each line that is not empty.
    Line,
    /// What stands between empty lines.
    Paragraph,
    /// What stands between lines that are exactly this.
    Separator(String),
}

/// What to do about a record that is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Invalid {
    /// Stop and name it.
    #[default]
    Error,
    /// Leave it out and count it.
    Skip,
}

/// Which duplicates of a source are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deduplication {
    /// None: what repeats is meant to.
    None,
    /// Those of the same text.
    Exact,
    /// Those of nearly the same text too.
    Near,
}
