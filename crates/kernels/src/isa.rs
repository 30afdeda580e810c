//! Which instructions this machine has, found at run time.

use std::fmt;
use std::sync::OnceLock;

use crate::{Error, Result};

/// Instruction sets in rising order; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable Rust: the reference of every kernel.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C: 8 f32 lanes. Products of bytes take AVX-VNNI where it is.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL: 16 f32 lanes.
    Avx512,
    /// AVX-512 and the AMX bf16 tile unit, with the operating system's permission to use it. Products of
    /// bytes take the unit too where it has them, and vectors where not.
    Amx,
}

impl Isa {
    /// All instruction sets, weakest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The word used in `FATHOM_ISA`.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }

    /// The best instruction set of this machine (asked once per process).
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(detect)
    }

    /// Every instruction set that runs here, weakest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|&isa| isa <= Isa::best())
    }

    /// The instruction set to use: the best, or what `FATHOM_ISA` names.
    ///
    /// # Errors
    /// If `FATHOM_ISA` is no ISA or not available here, or if one of the comma-separated sets in
    /// `FATHOM_REQUIRE_ISA` is missing.
    pub fn from_env() -> Result<Isa> {
        let read = |variable| std::env::var(variable).ok().filter(|value| !value.is_empty());
        for wanted in read("FATHOM_REQUIRE_ISA").iter().flat_map(|list| list.split(',')) {
            parse_available("FATHOM_REQUIRE_ISA", wanted)?;
        }
        match read("FATHOM_ISA") {
            Some(wanted) => parse_available("FATHOM_ISA", &wanted),
            None => Ok(Isa::best()),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn parse_available(variable: &'static str, value: &str) -> Result<Isa> {
    let wanted = Isa::ALL
        .into_iter()
        .find(|isa| isa.name() == value.trim())
        .ok_or_else(|| Error::UnknownIsa { variable, value: value.to_owned() })?;
    if wanted > Isa::best() {
        return Err(Error::MissingIsa { variable, wanted, best: Isa::best() });
    }
    Ok(wanted)
}

#[cfg(vector_kernels)]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx2 && avx512) {
        (_, true) if crate::gemm::amx_available() => Isa::Amx,
        (_, true) => Isa::Avx512,
        (true, false) => Isa::Avx2,
        (false, false) => Isa::Scalar,
    }
}

#[cfg(not(vector_kernels))]
fn detect() -> Isa {
    Isa::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_unknown_ones_do_not() {
        assert_eq!(parse_available("FATHOM_ISA", "scalar").expect("always there"), Isa::Scalar);
        assert!(matches!(parse_available("FATHOM_ISA", "sse9"), Err(Error::UnknownIsa { .. })));
        let available: Vec<Isa> = Isa::available().collect();
        assert!(available.is_sorted() && available[0] == Isa::Scalar);
        assert_eq!(available.last(), Some(&Isa::best()));
    }
}
