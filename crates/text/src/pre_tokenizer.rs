//! How text is cut into words before byte-level BPE: the three ways of DeepSeek's tokenizers.
//!
//! `tokenizer.json` spells the steps out; GGUF files have only a name for them (`tokenizer.ggml.pre`). The
//! patterns are those of the released `tokenizer.json` files of DeepSeek-V3, DeepSeek-LLM (whose tokenizer V2
//! has too) and DeepSeek-Coder.

use serde_json::{Value, json};

/// One cut.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// What matches is a word of its own.
    Split(&'static str),
    /// Every digit is.
    Digits,
}

/// A name of `tokenizer.ggml.pre`, and what is done.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    pub(crate) name: &'static str,
    steps: &'static [Step],
}

/// The names, for messages.
pub(crate) const NAMES: &str = "deepseek-v3, deepseek-llm or deepseek-coder";

const CJK: &str = r"[一-龥ࠀ-一가-퟿]+";

const KNOWN: [PreTokenizer; 3] = [
    PreTokenizer {
        name: "deepseek-v3",
        steps: &[Step::Split(r"\p{N}{1,3}"), Step::Split(r"[一-龥぀-ゟ゠-ヿ]+"), Step::Split(V3_WORDS)],
    },
    PreTokenizer {
        name: "deepseek-llm",
        steps: &[
            Step::Split("[\r\n]"),
            Step::Split(LLM_LETTERS),
            Step::Split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Step::Split(r"\s+$"),
            Step::Split(CJK),
            Step::Digits,
        ],
    },
    PreTokenizer {
        name: "deepseek-coder",
        steps: &[
            Step::Split("[\r\n]"),
            Step::Split(r"\s?\p{L}+"),
            Step::Split(r"\s?\p{P}+"),
            Step::Split(CJK),
            Step::Digits,
        ],
    },
];

const V3_WORDS: &str = concat!(
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}",
    "]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
);

const LLM_LETTERS: &str = concat!(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-",
    r"ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ",
    r"-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ",
    r"-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
);

impl PreTokenizer {
    /// The one of this name.
    pub(crate) fn find(name: &str) -> Option<&'static PreTokenizer> {
        KNOWN.iter().find(|known| known.name == name)
    }

    /// The one that the `pre_tokenizer` of a `tokenizer.json` spells out.
    pub(crate) fn of_json(pre_tokenizer: &Value) -> Option<&'static PreTokenizer> {
        KNOWN.iter().find(|known| known.is_spelled_by(pre_tokenizer))
    }

    /// The `pre_tokenizer` of a `tokenizer.json`.
    pub(crate) fn to_json(&self) -> Value {
        let split = |step: &Step| match step {
            Step::Split(regex) => {
                json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
            }
            Step::Digits => json!({ "type": "Digits", "individual_digits": true }),
        };
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        let steps: Vec<Value> = self.steps.iter().map(split).chain([bytes]).collect();
        json!({ "type": "Sequence", "pretokenizers": steps })
    }

    /// Whether each step does the same. Offsets are not part of that.
    fn is_spelled_by(&self, pre_tokenizer: &Value) -> bool {
        let own = self.to_json();
        let steps = |value: &Value| value["pretokenizers"].as_array().cloned().unwrap_or_default();
        let (own, other) = (steps(&own), steps(pre_tokenizer));
        let same = |(own, other): (&Value, &Value)| {
            let fields = own.as_object().into_iter().flatten().filter(|(field, _)| *field != "trim_offsets");
            fields.into_iter().all(|(field, value)| other.get(field) == Some(value))
        };
        pre_tokenizer["type"] == "Sequence" && own.len() == other.len() && own.iter().zip(&other).all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_steps_say_the_same() {
        for known in &KNOWN {
            assert!(NAMES.contains(known.name));
            assert_eq!(PreTokenizer::find(known.name).map(|found| found.name), Some(known.name));
            let mut json = known.to_json();
            assert_eq!(PreTokenizer::of_json(&json).map(|found| found.name), Some(known.name));
            json["pretokenizers"][0]["pattern"]["Regex"] = "x".into();
            assert!(PreTokenizer::of_json(&json).is_none());
        }
        for other in ["deepseek-r1-qwen", "default", ""] {
            assert!(PreTokenizer::find(other).is_none(), "{other}");
        }
        assert!(PreTokenizer::of_json(&Value::Null).is_none());
    }
}
