//! ggml's tensor types: which of them are read and written, and what the others are called.

use crate::Dtype;
use fathom_numeric::blocks::BlockFormat;

/// Those that Fathom runs, for messages.
pub(crate) const SUPPORTED: &str =
    "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, IQ4_NL or IQ4_XS";

/// Code in the file, and what it is here.
const KNOWN: [(u32, Dtype); 13] = [
    (0, Dtype::F32),
    (1, Dtype::F16),
    (30, Dtype::BF16),
    (2, Dtype::Block(BlockFormat::Q4_0)),
    (3, Dtype::Block(BlockFormat::Q4_1)),
    (6, Dtype::Block(BlockFormat::Q5_0)),
    (7, Dtype::Block(BlockFormat::Q5_1)),
    (8, Dtype::Block(BlockFormat::Q8_0)),
    (12, Dtype::Block(BlockFormat::Q4K)),
    (13, Dtype::Block(BlockFormat::Q5K)),
    (14, Dtype::Block(BlockFormat::Q6K)),
    (20, Dtype::Block(BlockFormat::Iq4Nl)),
    (23, Dtype::Block(BlockFormat::Iq4Xs)),
];

/// Types that exist and are not run.
const OTHERS: [(u32, &str); 22] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

/// The type with this code, or its name (its number where it has none) if it is not run.
pub(super) fn from_code(code: u32) -> std::result::Result<Dtype, String> {
    if let Some(known) = KNOWN.iter().find(|known| known.0 == code) {
        return Ok(known.1);
    }
    let name = OTHERS.iter().find(|other| other.0 == code).map(|other| other.1);
    Err(name.map_or_else(|| format!("type {code}"), str::to_owned))
}

/// The code of a type; `None` if GGUF has none for it (our integer groups, FP8).
pub(super) fn code(dtype: Dtype) -> Option<u32> {
    KNOWN.iter().find(|known| known.1 == dtype).map(|known| known.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        for (number, dtype) in KNOWN {
            assert_eq!(from_code(number), Ok(dtype));
            assert_eq!(code(dtype), Some(number));
            assert!(SUPPORTED.to_lowercase().contains(&dtype.name().to_lowercase()), "{dtype}");
        }
        assert_eq!(from_code(10), Err("Q2_K".to_owned()));
        assert_eq!(from_code(4), Err("type 4".to_owned()));
        assert_eq!(code(Dtype::Block(BlockFormat::Int4G64)), None);
        assert_eq!(code(Dtype::F8E4M3), None);
    }
}
