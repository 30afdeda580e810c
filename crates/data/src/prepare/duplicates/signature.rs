//! MinHash signatures with one hash per shingle.
//!
//! Each shingle is hashed once; some bits of the hash choose the signature's place, the others compete for it (one
//! permutation hashing: Li, Owen and Zhang, NIPS 2012). Places without a shingle borrow from others in an order that is the
//! same for all documents (optimal densification: Shrivastava, ICML 2017), so that two signatures agree in a place with
//! the probability of the Jaccard similarity, as with `k` hashes per shingle, for a `k`th of the work.

use twox_hash::XxHash3_64;

use super::Bands;
use crate::prepare::clean::Words;
use crate::prepare::config::Deduplicate;

/// Makes signatures.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    shingle: usize,
    bands: Bands,
    /// The signature, while it is made.
    places: Vec<u32>,
    /// The same without gaps.
    dense: Vec<u32>,
    /// Where each place borrows first: [`REMEMBERED`] places for each.
    lenders: Vec<[u32; REMEMBERED]>,
}

/// Half of the places of a short document borrow; few of them more often than this.
const REMEMBERED: usize = 8;

const EMPTY: u32 = u32::MAX;

impl Signer {
    pub(crate) fn new(deduplicate: &Deduplicate) -> Self {
        let bands = Bands::of(deduplicate);
        let count = bands.count * bands.rows;
        let lenders = (0..count).map(|at| std::array::from_fn(|attempt| lender(at, attempt, count) as u32));
        Self {
            shingle: deduplicate.shingle,
            bands,
            places: vec![EMPTY; count],
            dense: vec![EMPTY; count],
            lenders: lenders.collect(),
        }
    }

    /// Appends a key for each band of the document's signature. A document shorter than a shingle is one shingle; one
    /// without words has keys that only it has, named by `own`.
    pub(crate) fn sign(&mut self, words: &Words, own: u128, keys: &mut Vec<u64>) {
        self.places.fill(EMPTY);
        let (places, count) = (&mut self.places, self.bands.count * self.bands.rows);
        let length = self.shingle.min(words.hashes.len());
        words.runs(length, |hash| {
            let place = (((hash >> 32) * count as u64) >> 32) as usize;
            // One value is kept for places without a shingle.
            places[place] = places[place].min((hash as u32).min(EMPTY - 1));
        });
        if words.hashes.is_empty() {
            keys.extend((0..self.bands.count).map(|band| (own as u64).wrapping_add(band as u64)));
            return;
        }
        self.fill_gaps();
        for (band, rows) in self.dense.chunks_exact(self.bands.rows).enumerate() {
            let mut bytes = [0; 4 * 64];
            let mut hash = band as u64;
            for rows in rows.chunks(64) {
                for (place, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(rows) {
                    *place = value.to_le_bytes();
                }
                hash = XxHash3_64::oneshot_with_seed(hash, &bytes[..4 * rows.len()]);
            }
            keys.push(hash);
        }
    }

    fn fill_gaps(&mut self) {
        let Self { places, dense, lenders, .. } = self;
        for (at, (dense, lenders)) in dense.iter_mut().zip(lenders).enumerate() {
            let own = places[at];
            let remembered = || lenders.iter().map(|&from| places[from as usize]);
            let others = || (REMEMBERED..).map(|attempt| places[lender(at, attempt, places.len())]);
            *dense = match own {
                EMPTY => remembered().chain(others()).find(|&value| value != EMPTY).expect("endless"),
                own => own,
            };
        }
    }
}

/// The place from which an empty one borrows at its `attempt`th try.
fn lender(at: usize, attempt: usize, count: usize) -> usize {
    let mixed = ((at as u64) << 32 | (attempt as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (((mixed >> 32) * count as u64) >> 32) as usize
}
