//! Where the cache of a checkpoint lies.

use crate::checksum;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Longer names are cut: most file systems allow 255 bytes, and partial files get some more.
const NAME_MAX: usize = 80;

/// Where the cache of `checkpoint` (a directory or a file), packed with the options that `options_id`
/// names, may lie, in order of preference:
///
/// 1. beside the checkpoint, in `.fathom/`: moves with it, is deleted with it;
/// 2. in `$FATHOM_CACHE_DIR`, or else in `$XDG_CACHE_HOME/fathom`, or else in `~/.cache/fathom`, under
///    `packed/`, for checkpoints in a place that cannot be written.
///
/// A checkpoint and an `options_id` have one name in each, whatever the version of program and kernels: a
/// new cache replaces the old one and nothing piles up. Machines that share a disk and need different
/// layouts should have different ids, or they will take turns rebuilding.
pub fn places(checkpoint: &Path, options_id: &str) -> Vec<PathBuf> {
    places_with(checkpoint, options_id, |name| env::var_os(name))
}

fn places_with(
    checkpoint: &Path,
    options_id: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<PathBuf> {
    let id = plain(options_id);
    let beside = if checkpoint.is_dir() {
        checkpoint.join(".fathom").join(format!("{id}.packed"))
    } else {
        let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
        checkpoint.with_file_name(".fathom").join(format!("{}.{id}.packed", plain(&name)))
    };
    let elsewhere =
        cache_directory_with(variable).map(|cache| place_in(&cache.join("packed"), checkpoint, options_id));
    std::iter::once(beside).chain(elsewhere).collect()
}

/// Where this user's Fathom keeps what it can make again: `$FATHOM_CACHE_DIR`, or else `$XDG_CACHE_HOME/fathom`, or else
/// `~/.cache/fathom`. `None` where none of these variables is set.
pub fn cache_directory() -> Option<PathBuf> {
    cache_directory_with(|name| env::var_os(name))
}

fn cache_directory_with(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // Specified: XDG directories that are not absolute are to be ignored.
    let directory = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    variable("FATHOM_CACHE_DIR")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| directory("XDG_CACHE_HOME").map(|path| path.join("fathom")))
        .or_else(|| directory("HOME").map(|path| path.join(".cache/fathom")))
}

/// The cache's file in a directory that many checkpoints share: `NAME-HASH.OPTIONS.packed`, where the hash is of
/// the checkpoint's path. Otherwise as [`places()`].
pub fn place_in(directory: &Path, checkpoint: &Path, options_id: &str) -> PathBuf {
    // A path without a last part (`.`, `..`) gets one, and every way to write a path becomes the same.
    let absolute = fs::canonicalize(checkpoint)
        .or_else(|_| std::path::absolute(checkpoint))
        .unwrap_or_else(|_| checkpoint.to_owned());
    let name = plain(&absolute.file_name().unwrap_or_default().to_string_lossy());
    let which = checksum::hash64(absolute.as_os_str().as_encoded_bytes());
    directory.join(format!("{name}-{which:016x}.{}.packed", plain(options_id)))
}

/// `text` as part of a file name: letters, digits and `._-`; a text that has to be changed or cut gets its
/// hash at the end, so that different ones stay different.
fn plain(text: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = text.chars().take(NAME_MAX).map(|c| if good(c) { c } else { '-' }).collect();
    if name == text { name } else { format!("{name}-{:016x}", checksum::hash64(text.as_bytes())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(checkpoint: &Path, id: &str, variables: &[(&str, &str)], expected: &[&str]) {
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let got = places_with(checkpoint, id, variable);
        let which = checksum::hash64(fs::canonicalize(checkpoint).unwrap().as_os_str().as_encoded_bytes());
        let directory = checkpoint.parent().unwrap().to_str().unwrap();
        let fill = |text: &&str| {
            PathBuf::from(text.replace("DIR", directory).replace("#", &format!("{which:016x}")))
        };
        assert_eq!(got, expected.iter().map(fill).collect::<Vec<_>>());
    }

    #[test]
    fn beside_then_the_cache_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("V2-Lite");
        let file = scratch.path().join("v2 lite.gguf");
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "").unwrap();
        let all = [("FATHOM_CACHE_DIR", "/f"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        let beside = "DIR/V2-Lite/.fathom/int4-g64.packed";
        check(&directory, "int4-g64", &all, &[beside, "/f/packed/V2-Lite-#.int4-g64.packed"]);
        check(&directory, "int4-g64", &all[1..], &[beside, "/x/fathom/packed/V2-Lite-#.int4-g64.packed"]);
        let home = "/h/.cache/fathom/packed/V2-Lite-#.int4-g64.packed";
        check(&directory, "int4-g64", &all[2..], &[beside, home]);
        check(&directory, "int4-g64", &[("XDG_CACHE_HOME", "x"), ("HOME", "/h")], &[beside, home]);
        check(&directory, "int4-g64", &[], &[beside]);
        let name = plain("v2 lite.gguf");
        check(&file, "q", &[], &[&format!("DIR/.fathom/{name}.q.packed")]);
    }

    #[test]
    fn a_part_of_a_name_is_plain_short_and_its_own() {
        assert_eq!(plain("int4-g64.a_b"), "int4-g64.a_b");
        let long = "x".repeat(300);
        for (a, b) in [("../a", "..-a"), ("a/b", "a\\b"), ("é", "è"), (&long[..], &long[1..])] {
            assert_ne!(plain(a), plain(b));
            let good = |name: String| name.len() <= NAME_MAX + 17 && !name.contains(['/', '\\']);
            assert!(good(plain(a)) && good(plain(b)));
        }
    }
}
