//! A tokenizer cut to a smaller vocabulary.
//!
//! Byte-level BPE numbers its entries in the order of its merges, so the first entries of a
//! vocabulary are a vocabulary too: every entry's parts come before it. Added tokens beyond the
//! cut move to the end of the smaller vocabulary, in their order.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// `tokenizer.json` with all ids below `vocab_size`. The result encodes every text, in more tokens
/// than the original where it lacks an entry, and decodes to the same text.
///
/// `None` if the tokenizer is no byte-level BPE in the usual form, or `vocab_size` leaves no room
/// beside the added tokens and the 256 bytes.
pub fn fit_vocabulary(tokenizer_json: &[u8], vocab_size: usize) -> Option<Vec<u8>> {
    let mut tokenizer: Value = serde_json::from_slice(tokenizer_json).ok()?;
    let added = tokenizer.get("added_tokens")?.as_array()?;
    // Those that surely stay below the cut keep their ids; the others end the new vocabulary.
    let low = vocab_size.checked_sub(added.len())? as u64;
    let beyond = added.iter().filter(|token| token["id"].as_u64().is_some_and(|id| id >= low)).count();
    let boundary = (vocab_size - beyond) as u64;
    if boundary < 256 + added.len() as u64 {
        return None;
    }
    let mut moved = BTreeMap::new();
    for token in tokenizer["added_tokens"].as_array_mut()? {
        if token.get("id")?.as_u64()? >= low {
            let id = boundary + moved.len() as u64;
            moved.insert(token["content"].as_str()?.to_owned(), id);
            token["id"] = json!(id);
        }
    }
    let model = tokenizer.get_mut("model")?;
    let vocab = model.get_mut("vocab")?.as_object_mut()?;
    vocab.retain(|entry, id| id.as_u64().is_some_and(|id| id < boundary) && !moved.contains_key(entry));
    let vocab = vocab.clone();
    let kept = |merge: &Value| {
        let (left, right) = match merge {
            Value::String(pair) => pair.split_once(' ')?,
            pair => (pair.get(0)?.as_str()?, pair.get(1)?.as_str()?),
        };
        let whole = format!("{left}{right}");
        Some(vocab.contains_key(left) && vocab.contains_key(right) && vocab.contains_key(&whole))
    };
    model.get_mut("merges")?.as_array_mut()?.retain(|merge| kept(merge) == Some(true));
    serde_json::to_vec(&tokenizer).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;

    use super::*;
    use crate::Tokenizer;

    fn deepseek_v3() -> Vec<u8> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/deepseek-v3-tokenizer");
        let file = std::fs::File::open(dir.join("tokenizer.json.gz")).expect("a fixture");
        let mut json = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut json).expect("gzip");
        json
    }

    #[test]
    fn a_smaller_vocabulary_still_says_everything() {
        let json = deepseek_v3();
        let fitted = fit_vocabulary(&json, 102_400).expect("room enough");
        let tokenizer = Tokenizer::from_bytes(&fitted, None).expect("a valid tokenizer");
        assert_eq!(tokenizer.vocab_size(), 102_400);
        let user = tokenizer.token_to_id("<｜User｜>").expect("moved, not lost");
        assert!((user as usize) < 102_400);
        let texts = [
            "",
            "Hello, world!",
            "<｜User｜>你好，世界<｜Assistant｜>",
            "naïve 🦀 \u{1f469}\u{200d}\u{1f680}",
            "x\u{0}y",
        ];
        for text in texts {
            let ids = tokenizer.encode(text, false).expect("encodes");
            assert!(ids.iter().all(|&id| id < 102_400));
            assert_eq!(tokenizer.decode(&ids, false).expect("decodes"), text);
        }
        // What both know, both say alike.
        let original = Tokenizer::from_bytes(&json, None).expect("valid");
        let text = "The first entries of a vocabulary are a vocabulary too.";
        assert_eq!(
            tokenizer.encode(text, false).expect("encodes"),
            original.encode(text, false).expect("encodes")
        );
    }

    #[test]
    fn no_room_and_other_forms_are_declined() {
        assert!(fit_vocabulary(&deepseek_v3(), 1000).is_none());
        assert!(fit_vocabulary(b"{}", 100_000).is_none());
        assert!(fit_vocabulary(b"not json", 100_000).is_none());
    }
}
