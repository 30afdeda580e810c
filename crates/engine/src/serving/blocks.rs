//! Who holds which block of the latent cache, and which blocks still hold a prefix worth keeping.
//!
//! A full block has a name: a hash of its tokens and of the name of the block before it, begun by a
//! namespace. Equal names mean equal latents, so sequences share blocks by name (vLLM's automatic prefix
//! caching). A block that nobody holds keeps its name and its latents until it is needed, the one that has
//! rested longest first.
//!
//! A prefix seldom ends where a block does. So every block also remembers its tokens, how few there may be: a sequence of
//! the same tenant that begins as one of them does, and then differs, takes a copy ([`BlockPool::longest`]).

use std::collections::{BTreeMap, HashMap};

use fathom_kernels::attention::BLOCK_TOKENS;
use sha2::{Digest, Sha256};

/// The name of a full block: SHA-256, because whoever finds two prefixes of one name could make a stranger's
/// latents answer for his own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockName([u8; 32]);

impl BlockName {
    /// The name before the first block. Prefixes of different namespaces never meet.
    pub fn root(namespace: &str) -> Self {
        Self(Sha256::digest(namespace.as_bytes()).into())
    }

    /// The name of the block of `tokens` behind the block of this name.
    pub fn next(&self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new_with_prefix(self.0);
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        Self(hash.finalize().into())
    }

    /// Under which name `tenant` finds parts of blocks behind this one. Tenants do not share them, even in one namespace:
    /// who sees how many tokens of a guess were cached could guess a stranger's prompt token by token, not 64 at once.
    pub(super) fn parts_of(&self, tenant: &str) -> Self {
        Self(Sha256::new_with_prefix(self.0).chain_update(tenant).finalize().into())
    }

    /// Lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The name that [`BlockName::hex`] wrote.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut name = [0; 32];
        let digits = text.as_bytes().as_chunks::<2>();
        if digits.0.len() != name.len() || !digits.1.is_empty() {
            return None;
        }
        for (byte, pair) in name.iter_mut().zip(digits.0) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(name))
    }
}

/// Extends `names` by those of the blocks that `tokens` fill and that have none yet.
pub(super) fn name_blocks(root: BlockName, tokens: &[u32], names: &mut Vec<BlockName>) {
    for block in tokens[names.len() * BLOCK_TOKENS..].chunks_exact(BLOCK_TOKENS) {
        let before = names.last().copied().unwrap_or(root);
        names.push(before.next(block));
    }
}

#[derive(Clone, Debug, Default)]
struct Block {
    holders: u32,
    name: Option<BlockName>,
    /// Whose latents are in it from its beginning; none where nobody may copy it.
    tokens: Vec<u32>,
    /// The [`BlockName::parts_of`] that it is found under.
    behind: Option<BlockName>,
    /// Its place among the resting.
    rests_since: u64,
}

/// The blocks of a cache.
#[derive(Debug)]
pub(super) struct BlockPool {
    blocks: Vec<Block>,
    named: HashMap<BlockName, u32>,
    /// Blocks with tokens, by the [`BlockName::parts_of`] of the name before them.
    behind: HashMap<BlockName, Vec<u32>>,
    /// Held by nobody, without name and tokens.
    free: Vec<u32>,
    /// Held by nobody but worth keeping, by the time they were put down.
    resting: BTreeMap<u64, u32>,
    clock: u64,
}

impl BlockPool {
    pub(super) fn new(blocks: usize) -> Self {
        let count = u32::try_from(blocks).expect("a cache numbers its blocks with 32 bits");
        Self {
            blocks: vec![Block::default(); blocks],
            named: HashMap::new(),
            behind: HashMap::new(),
            free: (0..count).rev().collect(),
            resting: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Blocks that could be taken now.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.resting.len()
    }

    /// Blocks held by sequences.
    pub(super) fn held(&self) -> usize {
        self.blocks.len() - self.available()
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// How many of the first `names` are here.
    pub(super) fn cached(&self, names: &[BlockName]) -> usize {
        names.iter().take_while(|name| self.named.contains_key(name)).count()
    }

    /// How many of the named blocks are held by nobody: taking them makes so many fewer available.
    pub(super) fn resting_among(&self, names: &[BlockName]) -> usize {
        let rests = |name: &&BlockName| self.named.get(name).is_some_and(|&b| self.block(b).holders == 0);
        names.iter().filter(rests).count()
    }

    /// One more holder of the block of this name.
    pub(super) fn share(&mut self, name: &BlockName) -> Option<u32> {
        let index = *self.named.get(name)?;
        self.hold(index);
        Some(index)
    }

    /// One more holder of a block that is not free.
    pub(super) fn hold(&mut self, index: u32) {
        let block = &mut self.blocks[index as usize];
        if block.holders == 0 {
            self.resting.remove(&block.rests_since);
        }
        block.holders += 1;
    }

    /// The block under `name` that has the most of `tokens` from its beginning, and how many these are.
    pub(super) fn longest(&self, name: &BlockName, tokens: &[u32]) -> Option<(u32, usize)> {
        let common = |&index: &u32| {
            self.block(index).tokens.iter().zip(tokens).take_while(|(own, wanted)| own == wanted).count()
        };
        let blocks = self.behind.get(name)?.iter();
        blocks
            .map(|index| (*index, common(index)))
            .max_by_key(|(_, common)| *common)
            .filter(|found| found.1 > 0)
    }

    /// A held block has the latents of `tokens`: others may copy it. One that says nothing new is not remembered.
    pub(super) fn remember(&mut self, index: u32, behind: BlockName, tokens: &[u32]) {
        self.forget(index);
        if self.longest(&behind, tokens).is_some_and(|(_, common)| common == tokens.len()) {
            return;
        }
        self.behind.entry(behind).or_default().push(index);
        let block = &mut self.blocks[index as usize];
        (block.tokens, block.behind) = (tokens.to_vec(), Some(behind));
    }

    /// Nobody may copy the block any more.
    fn forget(&mut self, index: u32) {
        let block = &mut self.blocks[index as usize];
        block.tokens.clear();
        let Some(behind) = block.behind.take() else { return };
        let siblings = self.behind.get_mut(&behind).expect("it is among them");
        siblings.retain(|&sibling| sibling != index);
        if siblings.is_empty() {
            self.behind.remove(&behind);
        }
    }

    /// A block without contents; the longest rested one loses its name and its tokens for it.
    pub(super) fn take(&mut self) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let (_, index) = self.resting.pop_first()?;
                if let Some(name) = self.blocks[index as usize].name.take() {
                    self.named.remove(&name);
                }
                self.forget(index);
                index
            }
        };
        self.blocks[index as usize].holders = 1;
        Some(index)
    }

    /// The block is full: others may share it. If another of this name is there already, it stays nameless.
    pub(super) fn publish(&mut self, index: u32, name: BlockName) {
        let block = &mut self.blocks[index as usize];
        assert!(block.holders > 0 && block.name.is_none(), "only a holder knows what a block holds");
        if let std::collections::hash_map::Entry::Vacant(place) = self.named.entry(name) {
            place.insert(index);
            block.name = Some(name);
        }
    }

    /// Whether the block has a name already.
    pub(super) fn is_named(&self, index: u32) -> bool {
        self.block(index).name.is_some()
    }

    /// One holder fewer for each of a sequence's blocks. Its end goes first, for a prefix is worth nothing
    /// without its beginning.
    pub(super) fn put_down(&mut self, blocks: &[u32]) {
        for &index in blocks.iter().rev() {
            let block = &mut self.blocks[index as usize];
            block.holders = block.holders.checked_sub(1).expect("a holder puts a block down once");
            if block.holders > 0 {
                continue;
            }
            if block.name.is_none() && block.tokens.is_empty() {
                self.free.push(index);
            } else {
                self.clock += 1;
                block.rests_since = self.clock;
                self.resting.insert(self.clock, index);
            }
        }
    }

    fn block(&self, index: u32) -> &Block {
        &self.blocks[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(namespace: &str, tokens: &[u32]) -> Vec<BlockName> {
        let mut names = Vec::new();
        name_blocks(BlockName::root(namespace), tokens, &mut names);
        names
    }

    #[test]
    fn a_name_tells_the_whole_prefix_and_the_namespace() {
        let tokens: Vec<u32> = (0..200).collect();
        let mut other = tokens.clone();
        other[3] = 7;
        let (a, b) = (names("x", &tokens), names("x", &other));
        assert_eq!(a.len(), 3);
        assert!(a.iter().zip(&b).all(|(a, b)| a != b), "a change in the first block changes all");
        assert!(names("y", &tokens)[0] != a[0]);
        assert_eq!(names("x", &tokens[..130]), a[..2]);
        let mut grown = names("x", &tokens[..70]);
        name_blocks(BlockName::root("x"), &tokens, &mut grown);
        assert_eq!(grown, a);
    }

    #[test]
    fn the_longest_rested_end_of_a_prefix_goes_first() {
        let mut pool = BlockPool::new(3);
        let chain = names("", &(0..192).collect::<Vec<_>>());
        let blocks: Vec<u32> = (0..3).map(|_| pool.take().expect("room")).collect();
        assert_eq!(pool.take(), None);
        blocks.iter().zip(&chain).for_each(|(&block, &name)| pool.publish(block, name));
        pool.put_down(&blocks);
        assert_eq!((pool.available(), pool.cached(&chain)), (3, 3));
        assert_eq!(pool.share(&chain[0]), Some(blocks[0]));
        assert_eq!(pool.resting_among(&chain), 2);
        assert_eq!(pool.take(), Some(blocks[2]));
        assert_eq!(pool.cached(&chain), 2);
        pool.put_down(&blocks[..1]);
        assert_eq!(pool.take(), Some(blocks[1]), "it was put down before the shared one");
    }

    proptest! {
        /// Whatever happens, every block is held, resting or free, and exactly once.
        #[test]
        fn blocks_are_neither_lost_nor_lent_twice(steps in prop::collection::vec((0u8..6, 0usize..8), 1..200)) {
            let mut pool = BlockPool::new(6);
            let chain = names("", &(0..64 * 8).collect::<Vec<_>>());
            let mut held: Vec<u32> = Vec::new();
            for (what, which) in steps {
                match what {
                    4 if !held.is_empty() => {
                        let block = held[which % held.len()];
                        pool.remember(block, chain[which / 4], &[which as u32 % 4, 7, which as u32]);
                    }
                    5 => {
                        if let Some((block, common)) = pool.longest(&chain[which / 4], &[which as u32 % 4, 7]) {
                            prop_assert!(common <= 2);
                            pool.hold(block);
                            held.push(block);
                        }
                    }
                    0 => held.extend(pool.take()),
                    1 => held.extend(pool.share(&chain[which])),
                    2 if !held.is_empty() => {
                        let block = held[which % held.len()];
                        if !pool.is_named(block) {
                            pool.publish(block, chain[which]);
                        }
                    }
                    _ if !held.is_empty() => {
                        let block = held.swap_remove(which % held.len());
                        pool.put_down(&[block]);
                    }
                    _ => {}
                }
                let distinct: std::collections::HashSet<u32> = held.iter().copied().collect();
                prop_assert_eq!(pool.held(), distinct.len());
                prop_assert_eq!(pool.available() + pool.held(), pool.len());
            }
        }
    }
}
