//! Documents of which the middle comes last, so that the model learns to fill a gap.
//!
//! DeepSeek-V3 (§4.1) writes a tenth of its documents as `<｜fim▁begin｜>` prefix `<｜fim▁hole｜>` suffix `<｜fim▁end｜>`
//! middle (prefix, suffix, middle: PSM), cut at random characters.

use std::path::Path;

use fathom_text::{BulkEncoder, Tokenizer};
use twox_hash::XxHash3_64;

use crate::{Error, Result};

/// The ids of the markup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Markup {
    begin: u32,
    hole: u32,
    end: u32,
}

impl Markup {
    pub(crate) fn of(tokenizer: &Tokenizer, directory: &Path) -> Result<Self> {
        let find = |token: &'static str| {
            let missing = || Error::NoFillInTheMiddle { directory: directory.to_owned(), token };
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        Ok(Self {
            begin: find("<｜fim▁begin｜>")?,
            hole: find("<｜fim▁hole｜>")?,
            end: find("<｜fim▁end｜>")?,
        })
    }

    /// Appends `text` with the gap that `seed` and the document's hash choose.
    pub(crate) fn encode(
        &self,
        text: &str,
        draw: Draw,
        encoder: &mut BulkEncoder<'_>,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let [start, end] = draw.gap(text);
        ids.push(self.begin);
        encoder.encode_plain(&text[..start], ids)?;
        ids.push(self.hole);
        encoder.encode_plain(&text[end..], ids)?;
        ids.push(self.end);
        encoder.encode_plain(&text[start..end], ids)?;
        Ok(())
    }
}

/// The random numbers of one document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    seed: u64,
    document: u128,
}

impl Draw {
    pub(crate) fn new(seed: u64, document: u128) -> Self {
        Self { seed, document }
    }

    /// Whether this document is one of the `rate`.
    pub(crate) fn is_chosen(&self, rate: f64) -> bool {
        (self.number(0) as f64) < rate * 2f64.powi(64)
    }

    /// Where the middle begins and ends: two random bytes, moved to the beginnings of their characters.
    fn gap(&self, text: &str) -> [usize; 2] {
        let mut places = [1, 2].map(|number| {
            let place = (u128::from(self.number(number)) * (text.len() as u128 + 1)) >> 64;
            text.floor_char_boundary(place as usize)
        });
        places.sort_unstable();
        places
    }

    fn number(&self, number: u8) -> u64 {
        let mut bytes = [0; 17];
        bytes[..16].copy_from_slice(&self.document.to_le_bytes());
        bytes[16] = number;
        XxHash3_64::oneshot_with_seed(self.seed, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::tokenizer_directory;
    use fathom_text::BulkTokenizer;

    #[test]
    fn the_rate_is_kept_and_the_parts_are_the_text() {
        let text = "The cat sat on the mat. 床前明月光，疑是地上霜。 fn main() {}";
        let directory = tokenizer_directory();
        let mut tokenizer = Tokenizer::from_dir(&directory).unwrap();
        let error = Markup::of(&tokenizer, &directory).unwrap_err().to_string();
        assert!(error.contains("fim▁begin") && error.contains("rate"), "{error}");
        tokenizer = trained();
        let bulk = BulkTokenizer::new(tokenizer);
        let (tokenizer, mut encoder) = (bulk.tokenizer(), bulk.encoder());
        let markup = Markup::of(tokenizer, &directory).unwrap();
        let (mut chosen, mut gaps) = (0, std::collections::HashSet::new());
        for document in 0..4000_u128 {
            let draw = Draw::new(7, document << 60);
            chosen += u32::from(draw.is_chosen(0.1));
            let mut ids = Vec::new();
            markup.encode(text, draw, &mut encoder, &mut ids).unwrap();
            if document < 100 {
                let place = |token| ids.iter().position(|&id| id == token).unwrap();
                let (hole, end) = (place(markup.hole), place(markup.end));
                assert_eq!(place(markup.begin), 0);
                let part = |range: std::ops::Range<usize>| tokenizer.decode(&ids[range], false).unwrap();
                let parts = [part(1..hole), part(end + 1..ids.len()), part(hole + 1..end)];
                assert_eq!(parts.concat(), text);
                gaps.insert(parts[0].len());
            }
        }
        assert!((300..500).contains(&chosen), "{chosen} of 4000");
        assert!(gaps.len() > 20, "{} different gaps", gaps.len());
    }

    fn trained() -> Tokenizer {
        let training = fathom_text::BpeTraining {
            vocab_size: 300,
            digits: fathom_text::Digits::Three,
            isolate: None,
            min_frequency: 1,
            chat_template: None,
        };
        let trained = training.train(["the cat sat on the mat".to_owned()].into_iter()).unwrap();
        Tokenizer::from_bytes(&trained.tokenizer_json, None).unwrap()
    }
}
