//! Documents that were there before, word for word or nearly.
//!
//! Exact duplicates have the same 128-bit hash of their text. Near ones agree in a band of their MinHash signatures; of
//! documents that agree the first stays. What is compared lies in the index files of the finished stages: per document 16
//! bytes and 8 for each band. The search sorts 24 bytes for each of these keys, as many at a time as memory is allowed.

mod bands;
mod search;
mod signature;
#[cfg(test)]
mod tests;

pub(crate) use bands::Bands;
pub(crate) use search::{Duplicates, search};
pub(crate) use signature::Signer;
