//! The model that comes with the program: its files are in the binary, and put where a model can be opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;

/// What `--model` is if it is not given.
pub(crate) const WORD: &str = "shipped";

/// What the model calls itself: the name of its directory.
const NAME: &str = "fathom-mini";

macro_rules! files {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("../../../models/shipped/", $name)))),*]
    };
}

/// Name and contents of every file.
const FILES: [(&str, &[u8]); 5] = files!(
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json"
);

/// A `--model` as it was given: the shipped one, or a path.
pub(crate) fn model(given: &str) -> Result<PathBuf, String> {
    if given != WORD {
        return Ok(given.into());
    }
    let cache = fathom_packed::cache_directory().unwrap_or_else(|| std::env::temp_dir().join("fathom"));
    unpack(&cache).map_err(|error| {
        format!(
            "the shipped model cannot be unpacked below {}: {error}; name another directory in FATHOM_CACHE_DIR",
            cache.display()
        )
    })
}

/// The model's directory below `cache`, made if it is not there as it should be. Each version of the model has one of its
/// own, which appears when it is complete.
fn unpack(cache: &Path) -> io::Result<PathBuf> {
    let hash = FILES.iter().fold(0, |hash, (_, contents)| XxHash3_64::oneshot_with_seed(hash, contents));
    let version = cache.join(WORD).join(format!("{hash:016x}"));
    let model = version.join(NAME);
    if is_whole(&model) {
        return Ok(model);
    }
    fs::create_dir_all(&version)?;
    let partial = version.join(format!(".{NAME}.{}.partial", std::process::id()));
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir(&partial)?;
    let written = FILES.iter().try_for_each(|(name, contents)| fs::write(partial.join(name), contents));
    let placed = written.and_then(|()| {
        // What is there is not whole, or somebody else is unpacking the same.
        let _ = fs::remove_dir_all(&model);
        fs::rename(&partial, &model)
    });
    if placed.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    if is_whole(&model) { Ok(model) } else { placed.map(|()| model) }
}

fn is_whole(model: &Path) -> bool {
    FILES.iter().all(|(name, contents)| fs::read(model.join(name)).is_ok_and(|found| found == *contents))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_unpacked_once_and_mended() {
        let cache = tempfile::tempdir().unwrap();
        let model = unpack(cache.path()).unwrap();
        let weights = model.join("model.safetensors");
        let written = fs::metadata(&weights).unwrap().modified().unwrap();
        assert_eq!(unpack(cache.path()).unwrap(), model);
        assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), written, "it stayed as it was");
        fs::write(&weights, b"damaged").unwrap();
        assert_eq!(unpack(cache.path()).unwrap(), model);
        assert!(is_whole(&model));
        assert_eq!(super::model("some/where"), Ok(PathBuf::from("some/where")));
    }

    #[test]
    fn its_reasoning_stands_apart_from_the_answer() {
        let cache = tempfile::tempdir().unwrap();
        let tokenizer = fathom_text::Tokenizer::from_dir(&unpack(cache.path()).unwrap()).unwrap();
        let text = "<think>D2+S5\n=7</think>7";
        let ids = tokenizer.encode(text, false).unwrap();
        let shown = tokenizer.decode(&ids, true).unwrap();
        assert_eq!(shown, text, "the splitter needs the markup, so its tokens must not be special ones");
        let mut splitter = fathom_text::ReasoningSplitter::new(false);
        let mut pieces = splitter.push(&shown);
        pieces.extend(splitter.finish());
        let content: String = pieces
            .iter()
            .filter_map(
                |piece| if let fathom_text::Piece::Content(text) = piece { Some(&**text) } else { None },
            )
            .collect();
        assert_eq!(content, "7");
    }
}
