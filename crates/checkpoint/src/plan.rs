//! Which tensor is stored in which format: ordered rules, of which the first that matches counts.
//!
//! The `rules` of `quantization_config` in our own quantized checkpoints, and what `fathom quantize` is told.

use crate::{Dtype, Error, Result};
use serde_json::{Value, json};

/// One rule: the tensors whose name matches are stored so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A tensor's name; `*` stands for any characters, or none.
    pub tensors: String,
    /// F32, F16, BF16 or blocks.
    pub format: Dtype,
}

/// Rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The first that matches counts; a tensor that none matches stays as it is.
    pub rules: Vec<Rule>,
}

/// More rules than any plan; matching is rules times tensors.
const RULES_MAX: usize = 10_000;

impl Rule {
    /// A rule by the name of its format.
    ///
    /// # Errors
    /// [`Error::BadRule`] if there is no format of this name.
    pub fn new(tensors: &str, format: &str) -> Result<Self> {
        let Some(dtype) = Dtype::from_format(format) else {
            let blocks = fathom_numeric::blocks::BlockFormat::all().map(|format| format.name());
            let known: Vec<&str> = ["f32", "f16", "bf16"].into_iter().chain(blocks).collect();
            let reason =
                format!("has the format {format:?} for {tensors:?}, expected one of {}", known.join(", "));
            return Err(Error::BadRule { reason });
        };
        Ok(Self { tensors: tensors.to_owned(), format: dtype })
    }
}

impl Plan {
    /// Every matrix in one format.
    pub fn uniform(format: Dtype) -> Self {
        Self { rules: vec![Rule { tensors: "*".to_owned(), format }] }
    }

    /// Reads the `rules` of `quantization_config`: a list of `{"tensors": …, "format": …}`.
    ///
    /// # Errors
    /// [`Error::BadRule`] if it is anything else, or names an unknown format.
    pub fn from_json(rules: &Value) -> Result<Self> {
        let wrong = || Error::BadRule {
            reason: format!(
                "is expected to be a list of at most {RULES_MAX} objects with the texts \"tensors\" and \"format\""
            ),
        };
        let rules = rules.as_array().filter(|rules| rules.len() <= RULES_MAX).ok_or_else(wrong)?;
        let read = |rule: &Value| {
            let text = |field: &str| rule.get(field).and_then(Value::as_str).ok_or_else(wrong);
            Rule::new(text("tensors")?, text("format")?)
        };
        Ok(Self { rules: rules.iter().map(read).collect::<Result<_>>()? })
    }

    /// What [`Plan::from_json`] reads.
    pub fn to_json(&self) -> Value {
        let format = |dtype: Dtype| match dtype {
            Dtype::Block(format) => format.name().to_owned(),
            plain => plain.name().to_lowercase(),
        };
        let rules = self.rules.iter();
        rules.map(|rule| json!({ "tensors": rule.tensors, "format": format(rule.format) })).collect()
    }

    /// How the tensor `name` is stored; `None` if no rule says.
    pub fn format_of(&self, name: &str) -> Option<Dtype> {
        self.format_of_any(&[name])
    }

    /// The same for a tensor that goes by several names: the first rule that matches one of them counts.
    pub fn format_of_any(&self, names: &[&str]) -> Option<Dtype> {
        let is_meant = |rule: &&Rule| names.iter().any(|name| matches(&rule.tensors, name));
        self.rules.iter().find(is_meant).map(|rule| rule.format)
    }
}

/// Whether `name` is `pattern` with some characters for every `*`. In time proportional to the product of
/// both lengths at worst: on a mismatch only the last `*` takes one character more.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((after, from)) = retry {
            retry = Some((after, from + 1));
            (p, n) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_numeric::blocks::BlockFormat;
    use proptest::prelude::*;

    #[test]
    fn stars_stand_for_anything() {
        let check =
            |pattern: &str, name: &str, want| assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        check("", "", true);
        check("", "a", false);
        check("*", "", true);
        check("*", "model.norm.weight", true);
        check("model.layers.*.mlp.experts.*", "model.layers.3.mlp.experts.7.up_proj.weight", true);
        check("model.layers.*.mlp.experts.*", "model.layers.3.mlp.shared_experts.up_proj.weight", false);
        check("*.up_proj.weight", "a.up_proj.weight.up_proj.weight", true);
        check("a*b*c", "abc", true);
        check("a*b*c", "ac", false);
        check("ab", "abc", false);
        check("*a", "aab", false);
    }

    proptest! {
        #[test]
        fn stars_as_defined(pattern in "[ab*]{0,8}", name in "[ab]{0,8}") {
            fn slow(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|skip| slow(rest, &name[skip..])),
                    Some((byte, rest)) => name.first() == Some(byte) && slow(rest, &name[1..]),
                }
            }
            prop_assert_eq!(matches(&pattern, &name), slow(pattern.as_bytes(), name.as_bytes()));
        }
    }

    #[test]
    fn the_first_rule_counts() {
        let rules = json!([
            { "tensors": "*.mlp.gate.weight", "format": "f32" },
            { "tensors": "*.experts.*", "format": "int4-g64" },
            { "tensors": "*_proj.weight", "format": "int8-g32" },
        ]);
        let plan = Plan::from_json(&rules).unwrap();
        let check = |name: &str, want| assert_eq!(plan.format_of(name), want, "{name}");
        check("l.mlp.gate.weight", Some(Dtype::F32));
        check("l.mlp.experts.0.up_proj.weight", Some(Dtype::Block(BlockFormat::Int4G64)));
        check("l.self_attn.o_proj.weight", Some(Dtype::Block(BlockFormat::Q8_0)));
        check("model.norm.weight", None);
        assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
    }

    #[test]
    fn wrong_rules_say_what_is_right() {
        for (rules, part) in [
            (json!({}), "a list"),
            (json!([{ "tensors": "*" }]), "\"format\""),
            (json!([{ "tensors": "*", "format": "q2_k" }]), "int4-g64"),
        ] {
            let message = Plan::from_json(&rules).unwrap_err().to_string();
            assert!(message.contains(part), "{rules}: {message}");
        }
    }
}
