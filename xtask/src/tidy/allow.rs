//! The exceptions, each with its reason. An exception that no longer holds is to be removed.

/// Files longer than the limit: path and reason. Only generated tables belong here.
pub(super) const LONG_FILES: &[(&str, &str)] = &[];

/// Folders and files in which `unsafe` may stand.
///
/// `kernels` needs intrinsics, `asm!` and threads over borrowed slices; a file mapping is undefined if the
/// file shrinks under it, and no library can promise otherwise.
pub(super) const UNSAFE_PLACES: &[&str] = &["crates/kernels/", MAPPING, PACKED_MAPPING];

/// The one file of `checkpoint` that maps files.
const MAPPING: &str = "crates/checkpoint/src/mapping.rs";
/// The one file of `packed` that maps files.
const PACKED_MAPPING: &str = "crates/packed/src/mapping.rs";

/// What the root file of each crate must say about `unsafe`: folder, attribute. All others forbid it.
pub(super) const CRATE_ATTRIBUTES: &[(&str, Option<&str>)] =
    &[("crates/kernels/", None), ("crates/checkpoint/", DENY), ("crates/packed/", DENY)];

/// For a crate with one file of `unsafe`, which allows it for itself.
const DENY: Option<&str> = Some("#![deny(unsafe_code)]");

/// Where a program may print: the command line, this crate, and build scripts, which talk to cargo.
pub(super) const PRINTING_PLACES: &[&str] = &["crates/cli/", "xtask/"];
