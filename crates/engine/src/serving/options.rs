//! What an engine may use, and how long it may take.

use std::path::PathBuf;
use std::time::Duration;

/// Limits of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Tokens of prompt and answer at most; `None`: as many as the model knows and the cache has room for.
    pub context: Option<usize>,
    /// Tokens whose latents are held in memory.
    pub cache_tokens: usize,
    /// Sequences that run side by side at most.
    pub sequences: usize,
    /// Tokens of a step at most.
    pub step_tokens: usize,
    /// Prompts that run beside answers leave a step about this long.
    pub inter_token_latency: Duration,
    /// Requests that may wait.
    pub waiting: usize,
    /// The MTP module drafts while at most so many sequences decode; 0: never. Needs a model loaded with it.
    pub speculation: usize,
    /// Where prefixes are kept beyond the life of the process.
    pub disk_cache: Option<DiskCache>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            context: None,
            cache_tokens: 65_536,
            sequences: 64,
            step_tokens: 512,
            inter_token_latency: Duration::from_millis(500),
            waiting: 1024,
            speculation: 0,
            disk_cache: None,
        }
    }
}

/// A directory for blocks of latents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCache {
    /// It is made if it does not exist.
    pub directory: PathBuf,
    /// What may lie in it, in bytes; the blocks not used for longest go first.
    pub bytes: u64,
}
