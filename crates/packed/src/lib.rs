//! The packed cache's file: named, aligned, checksummed byte ranges, mapped and verified at start.
//!
//! Packing weights into the layout of a kernel takes minutes, reading them back less than a second. This
//! crate is the file between the two. It knows names and bytes; what a range means stands in a few words of
//! JSON beside it ([`Entry::meta`]) and is the caller's business.
//!
//! [`Writer`] streams entries to a file of its own name, which gets its place ([`places()`]) when it is
//! complete. [`Packed::open`] maps it, checks the header, the table and every byte of data against their
//! checksums on all threads, and hands out ranges of one shared [`Mapping`]. The cost is that of reading
//! memory once; a cold file is read from the disk by the same pass.
//!
//! A cache is one of a [`Key`]: the content of the checkpoint's files ([`Source`]), the layout of the
//! kernels, the options of packing. The content is known without reading the files as long as these look as
//! they did; if they look different they are read, and their content decides.
//!
//! ```no_run
//! # use fathom_packed::{Key, Limits, Outcome, Packed, Source, Writer, places};
//! # fn main() -> fathom_packed::Result<()> {
//! # let (directory, files, threads) = (std::path::Path::new("model"), vec![], std::num::NonZero::<usize>::MIN);
//! let source = Source::of(&files)?; // before the first of them is read
//! let key = Key { source, layout: "panels 3".to_owned(), options: "int4-g64".to_owned() };
//! let places = places(directory, "int4-g64");
//! match Packed::open_in(&places, &key, threads) {
//!     Outcome::Ready(packed) => { /* ranges of packed.mapping() become weights */ }
//!     Outcome::Rebuild(reason) => { // say so, load, and on the way:
//!         let mut writer = Writer::create_in(&places, &key, Limits::default())?;
//!         writer.append("model.embed_tokens", &("bf16", 102_400, 2048), &[])?;
//!         writer.finish(threads)?; // an error in these three lines is a warning
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! **Invariant:** a cache is never trusted. Every byte is covered by a checksum that is compared at every
//! start; what does not fit is [`Outcome::Rebuild`] with a sentence, never a panic, an error, or weights.
//! **Invariant:** a file under its final name is never written again, only replaced: mappings stay valid,
//! and writers at the same time end with one whole file.
//! **Invariant:** no allocation is larger than a small multiple of the file (or of its table) justifies.
//! **Invariant:** one file per place, checkpoint and options; what dead writers left is removed.
//! **Invariant:** `unsafe` stands in `mapping.rs` only.
//!
//! The checksums find damage, not malice: who can write beside a checkpoint can write the checkpoint.

#![deny(unsafe_code)]

mod checksum;
mod error;
mod layout;
mod mapping;
mod packed;
mod parallel;
mod partial;
mod places;
mod reason;
mod seen;
mod source;
mod space;
mod writer;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod life;

pub use error::{Error, Result};
pub use layout::{ALIGNMENT, FORMAT_VERSION};
pub use mapping::Mapping;
pub use packed::{Entry, Outcome, Packed};
pub use places::{cache_directory, place_in, places};
pub use reason::Reason;
pub use source::{ContentHash, Source};
pub use writer::{Limits, Writer};

/// Of what a cache is the cache.
#[derive(Clone, Debug)]
pub struct Key {
    /// The files that were packed.
    pub source: Source,
    /// What decides the bytes besides source and options: the version of the kernels' layout and, where it
    /// matters, the instruction set.
    pub layout: String,
    /// What was asked for: formats, groups, a plan's hash.
    pub options: String,
}
