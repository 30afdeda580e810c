//! What an engine did so far, in numbers.

/// Counters since the start, and the state of now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Sequences that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Blocks of the cache.
    pub cache_blocks: usize,
    /// Those held by running sequences.
    pub cache_blocks_used: usize,
    /// Requests that ended, however.
    pub finished_requests: u64,
    /// Tokens of prompts, cached ones included.
    pub prompt_tokens: u64,
    /// Those whose latents were cached.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub generated_tokens: u64,
    /// Drafts of the MTP module that were verified.
    pub drafted_tokens: u64,
    /// Those that were right.
    pub accepted_tokens: u64,
    /// Sequences that lost their place to older ones.
    pub preemptions: u64,
    /// Forward passes.
    pub steps: u64,
    /// Seconds spent in steps.
    pub step_seconds: f64,
    /// Blocks that came from the disk.
    pub disk_blocks_read: u64,
    /// Blocks that went to the disk.
    pub disk_blocks_written: u64,
}
