//! Which tokens of which sequences run in the next step. Sees no tensor and no clock.
//!
//! Sequences that decode come first, each with its next token and perhaps a draft. What is left of the step
//! goes to prompts, in pieces: of the running first, then of the waiting, who are let in while there are
//! blocks for their whole prompt. If a decoding sequence finds no block, the one that was let in last loses
//! its blocks and its place; it computes its latents anew later ("recompute" of Kwon et al. 2023, §4.5),
//! or finds them still cached.

use std::collections::{HashMap, HashSet};

use fathom_kernels::attention::BLOCK_TOKENS;

use super::blocks::{BlockName, BlockPool, name_blocks};
use super::fairness::FairQueue;

/// The most that happens at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Sequences side by side.
    pub(super) sequences: usize,
    /// Tokens of a step.
    pub(super) step_tokens: usize,
    /// Tokens of a sequence.
    pub(super) context: usize,
}

/// A sequence as the scheduler sees it.
#[derive(Debug)]
pub(super) struct Entry {
    tenant: String,
    root: BlockName,
    /// Prompt and answer so far.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the prompt.
    prompt: usize,
    /// Tokens whose latents are in the cache.
    pub(super) computed: usize,
    pub(super) blocks: Vec<u32>,
    /// Names of the blocks that `tokens` fill.
    names: Vec<BlockName>,
    /// How many of `blocks` have been published, or came with a name.
    published: usize,
    /// A guess at the token after the last.
    pub(super) draft: Option<u32>,
    /// Waits for blocks from the disk.
    fetching: bool,
}

impl Entry {
    /// Tokens without latents.
    fn rest(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Under which name parts of block `index` are found.
    fn parts_name(&self, index: usize) -> BlockName {
        index.checked_sub(1).map_or(self.root, |before| self.names[before]).parts_of(&self.tenant)
    }

    /// A block that begins as the one behind the first `cached` blocks, and how many tokens of it can be used.
    fn part_behind(&self, cached: usize, pool: &BlockPool) -> Option<(u32, usize)> {
        let rest = &self.tokens[cached * BLOCK_TOKENS..self.tokens.len() - 1];
        pool.longest(&self.parts_name(cached), &rest[..rest.len().min(BLOCK_TOKENS)])
    }

    /// Tells the pool what the last block holds, if it is not full.
    fn remember_part(&self, pool: &mut BlockPool) {
        let (block, part) = (self.computed / BLOCK_TOKENS, self.computed % BLOCK_TOKENS);
        if part > 0 {
            let tokens = &self.tokens[block * BLOCK_TOKENS..][..part];
            pool.remember(self.blocks[block], self.parts_name(block), tokens);
        }
    }

    /// Whole blocks of a prefix that may come from a cache: the last token has to run, for its logits.
    fn cacheable(&self) -> &[BlockName] {
        &self.names[..(self.tokens.len() - 1) / BLOCK_TOKENS]
    }
}

/// What one sequence runs in a step: tokens from its first without latents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) id: u64,
    /// Tokens, the draft not among them.
    pub(super) tokens: usize,
    /// Verified behind them.
    pub(super) draft: Option<u32>,
    /// Whether the next token of the answer can be chosen afterwards.
    pub(super) reaches_end: bool,
}

/// Blocks of a prefix that the disk has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) id: u64,
    pub(super) blocks: Vec<(u32, BlockName)>,
}

/// A block to be copied before the step runs: another sequence begins as it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// Held until [`Scheduler::copied`].
    pub(super) from: u32,
    pub(super) to: u32,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) copies: Vec<Copy>,
    pub(super) work: Vec<Work>,
    /// Lost their blocks and wait again.
    pub(super) preempted: Vec<u64>,
    /// Were let in, with so many tokens already computed.
    pub(super) admitted: Vec<(u64, usize)>,
    pub(super) fetches: Vec<Fetch>,
}

/// Sequences, blocks and the order of things.
#[derive(Debug)]
pub(super) struct Scheduler {
    limits: Limits,
    pub(super) pool: BlockPool,
    queue: FairQueue,
    /// In the order in which they were let in.
    running: Vec<u64>,
    entries: HashMap<u64, Entry>,
    /// Names of blocks on disk.
    stored: HashSet<BlockName>,
}

impl Scheduler {
    pub(super) fn new(limits: Limits, blocks: usize) -> Self {
        Self {
            limits,
            pool: BlockPool::new(blocks),
            queue: FairQueue::default(),
            running: Vec::new(),
            entries: HashMap::new(),
            stored: HashSet::new(),
        }
    }

    /// A new request of a tenant. Its prefix is shared within `namespace`.
    pub(super) fn add(&mut self, id: u64, tenant: &str, namespace: &str, prompt: Vec<u32>) {
        let root = BlockName::root(namespace);
        let mut names = Vec::new();
        name_blocks(root, &prompt, &mut names);
        let entry = Entry {
            tenant: tenant.to_owned(),
            root,
            prompt: prompt.len(),
            tokens: prompt,
            computed: 0,
            blocks: Vec::new(),
            names,
            published: 0,
            draft: None,
            fetching: false,
        };
        self.entries.insert(id, entry);
        self.queue.push(tenant, id);
    }

    pub(super) fn entry(&self, id: u64) -> &Entry {
        &self.entries[&id]
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Running sequences whose next step chooses a token of the answer.
    pub(super) fn decoding(&self) -> usize {
        self.running.iter().filter(|id| self.entries[id].rest() == 1).count()
    }

    /// The step to run now, with at most `prompt_tokens` tokens of prompts.
    pub(super) fn plan(&mut self, prompt_tokens: usize) -> Plan {
        let mut plan = Plan::default();
        self.plan_decoding(&mut plan);
        let used: usize = plan.work.iter().map(|work| work.tokens + usize::from(work.draft.is_some())).sum();
        let mut budget = prompt_tokens.min(self.limits.step_tokens.saturating_sub(used));
        self.plan_prompts(&mut plan, &mut budget);
        if plan.preempted.is_empty() {
            self.admit(&mut plan, &mut budget);
        }
        plan
    }

    fn plan_decoding(&mut self, plan: &mut Plan) {
        let mut place = 0;
        while place < self.running.len() {
            let id = self.running[place];
            let entry = &self.entries[&id];
            if entry.rest() != 1 || entry.fetching {
                place += 1;
                continue;
            }
            let drafted = entry.draft.filter(|_| entry.computed + 2 <= self.limits.context);
            let draft = drafted.filter(|_| self.lend(id, 2));
            while draft.is_none() && !self.lend(id, 1) {
                let last = self.running[self.running.len() - 1];
                self.preempt(last);
                plan.preempted.push(last);
                if last == id {
                    return;
                }
            }
            plan.work.push(Work { id, tokens: 1, draft, reaches_end: true });
            place += 1;
        }
    }

    fn plan_prompts(&mut self, plan: &mut Plan, budget: &mut usize) {
        for &id in &self.running {
            let entry = &self.entries[&id];
            if *budget > 0 && entry.rest() > 1 && !entry.fetching {
                plan.work.push(piece(id, entry, budget));
            }
        }
    }

    /// Lets in those who wait, while there is room.
    fn admit(&mut self, plan: &mut Plan, budget: &mut usize) {
        if self.queue.len() == 0 || *budget == 0 || self.running.len() >= self.limits.sequences {
            return;
        }
        for id in self.queue.candidates() {
            if self.running.len() >= self.limits.sequences || *budget == 0 {
                return;
            }
            let entry = &self.entries[&id];
            let cacheable = entry.cacheable();
            let cached = self.pool.cached(cacheable);
            // Somebody computes this very prefix now: its latents will be there soon.
            if cacheable.get(cached).is_some_and(|name| self.is_being_computed(name)) {
                continue;
            }
            let blocks = (entry.tokens.len() + 1).div_ceil(BLOCK_TOKENS).min(self.pool.len());
            let taken = blocks - cached + self.pool.resting_among(&cacheable[..cached]);
            // The running may each want one more soon; alone, a sequence may have all.
            if taken + self.running.len() > self.pool.available() {
                return;
            }
            self.let_in(id, cached, blocks, plan, budget);
        }
    }

    fn is_being_computed(&self, name: &BlockName) -> bool {
        self.running.iter().any(|id| {
            let entry = &self.entries[id];
            entry.rest() > 1 && entry.names[entry.computed / BLOCK_TOKENS..].contains(name)
        })
    }

    fn let_in(&mut self, id: u64, cached: usize, blocks: usize, plan: &mut Plan, budget: &mut usize) {
        let entry = self.entries.get_mut(&id).expect("who waits has an entry");
        self.queue.remove(&entry.tenant, id, true);
        self.running.push(id);
        let shared = entry.names[..cached].iter().map(|name| self.pool.share(name).expect("just found"));
        entry.blocks = shared.collect();
        // Held before blocks are taken, so that it is not among them; only if there is one more to take.
        let part = entry.part_behind(cached, &self.pool).filter(|_| blocks - cached < self.pool.available());
        if let Some((from, _)) = part {
            self.pool.hold(from);
        }
        entry.blocks.extend((cached..blocks).map(|_| self.pool.take().expect("enough are available")));
        (entry.computed, entry.published) = (cached * BLOCK_TOKENS, cached);
        let on_disk =
            entry.cacheable()[cached..].iter().take_while(|name| self.stored.contains(*name)).count();
        if on_disk > 0 {
            entry.fetching = true;
            let fetched = entry.blocks[cached..].iter().copied().zip(entry.names[cached..].iter().copied());
            plan.fetches.push(Fetch { id, blocks: fetched.take(on_disk).collect() });
            if let Some((from, _)) = part {
                self.pool.put_down(&[from]);
            }
            return;
        }
        if let Some((from, common)) = part {
            plan.copies.push(Copy { from, to: entry.blocks[cached] });
            entry.computed += common;
        }
        plan.admitted.push((id, entry.computed));
        plan.work.push(piece(id, entry, budget));
    }

    /// The block of [`Plan::copies`] has been copied.
    pub(super) fn copied(&mut self, copy: &Copy) {
        self.pool.put_down(&[copy.from]);
    }

    /// The blocks that a sequence waits for, from the first; none if it waits for none.
    pub(super) fn awaited(&self, id: u64) -> impl Iterator<Item = (u32, BlockName)> {
        let entry = self.entries.get(&id).filter(|entry| entry.fetching);
        let awaited = entry.map(|entry| {
            let blocks = entry.blocks[entry.published..].iter().copied();
            blocks.zip(entry.names[entry.published..].iter().copied())
        });
        awaited.into_iter().flatten()
    }

    /// The first `count` of the blocks that a sequence waited for have come. Returns the tokens now computed.
    pub(super) fn fetched(&mut self, id: u64, count: usize) -> Option<usize> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.fetching)?;
        entry.fetching = false;
        let first = entry.published;
        entry.computed += count * BLOCK_TOKENS;
        entry.published += count;
        for index in first..first + count {
            self.pool.publish(entry.blocks[index], entry.names[index]);
            let tokens = &entry.tokens[index * BLOCK_TOKENS..][..BLOCK_TOKENS];
            self.pool.remember(entry.blocks[index], entry.parts_name(index), tokens);
        }
        Some(entry.computed)
    }

    /// Blocks for `more` tokens beyond those computed. `false` changes nothing.
    fn lend(&mut self, id: u64, more: usize) -> bool {
        let entry = self.entries.get_mut(&id).expect("a running sequence has an entry");
        let wanted = (entry.computed + more).div_ceil(BLOCK_TOKENS).saturating_sub(entry.blocks.len());
        if wanted > self.pool.available() {
            return false;
        }
        entry.blocks.extend((0..wanted).map(|_| self.pool.take().expect("enough are available")));
        true
    }

    fn preempt(&mut self, id: u64) {
        self.running.retain(|&other| other != id);
        let entry = self.entries.get_mut(&id).expect("a running sequence has an entry");
        entry.remember_part(&mut self.pool);
        self.pool.put_down(&std::mem::take(&mut entry.blocks));
        (entry.computed, entry.published, entry.draft, entry.fetching) = (0, 0, None, false);
        self.queue.push_front(&entry.tenant, id);
    }

    /// The latents of `tokens` more tokens are in the cache. Returns the blocks that are now full, with names.
    pub(super) fn computed(&mut self, id: u64, tokens: usize) -> Vec<(u32, BlockName)> {
        let entry = self.entries.get_mut(&id).expect("what ran has an entry");
        let prompt = tokens.min(entry.prompt.saturating_sub(entry.computed));
        self.queue.serve(&entry.tenant, prompt, tokens - prompt);
        let had_prompt = entry.computed >= entry.prompt;
        entry.computed += tokens;
        assert!(entry.computed <= entry.tokens.len(), "only known tokens have latents");
        name_blocks(entry.root, &entry.tokens, &mut entry.names);
        let full = entry.published..entry.computed / BLOCK_TOKENS;
        entry.published = full.end;
        let mut new = Vec::new();
        for index in full {
            let (block, name) = (entry.blocks[index], entry.names[index]);
            self.pool.publish(block, name);
            let tokens = &entry.tokens[index * BLOCK_TOKENS..][..BLOCK_TOKENS];
            self.pool.remember(block, entry.parts_name(index), tokens);
            if self.pool.is_named(block) {
                new.push((block, name));
            }
        }
        // The end of a prompt is worth copying while its answer is still being written.
        if !had_prompt && entry.computed >= entry.prompt {
            entry.remember_part(&mut self.pool);
        }
        new
    }

    /// The next token of the answer.
    pub(super) fn append(&mut self, id: u64, token: u32) {
        self.entries.get_mut(&id).expect("what ran has an entry").tokens.push(token);
    }

    pub(super) fn set_draft(&mut self, id: u64, draft: Option<u32>) {
        self.entries.get_mut(&id).expect("what ran has an entry").draft = draft;
    }

    /// Forgets a sequence, wherever it is.
    pub(super) fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else { return };
        entry.remember_part(&mut self.pool);
        self.pool.put_down(&entry.blocks);
        if !self.queue.remove(&entry.tenant, id, false) {
            self.running.retain(|&other| other != id);
            self.queue.ended(&entry.tenant);
        }
    }

    pub(super) fn is_stored(&self, name: &BlockName) -> bool {
        self.stored.contains(name)
    }

    /// The disk has this block now, or has it no more.
    pub(super) fn set_stored(&mut self, name: BlockName, stored: bool) {
        if stored {
            self.stored.insert(name);
        } else {
            self.stored.remove(&name);
        }
    }
}

/// As much of a prompt as the budget allows.
fn piece(id: u64, entry: &Entry, budget: &mut usize) -> Work {
    let tokens = entry.rest().min(*budget);
    *budget -= tokens;
    Work { id, tokens, draft: None, reaches_end: tokens == entry.rest() }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
