//! Numbers in JSON, with those that JSON lacks: `"NaN"`, `"Infinity"` and `"-Infinity"` are
//! strings. A run that diverges must still be able to say so.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Figure(*value).serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Figure::deserialize(deserializer)?.0)
}

struct Figure(f64);

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            value if value.is_finite() => serializer.serialize_f64(value),
            value if value.is_nan() => serializer.serialize_str("NaN"),
            value if value > 0.0 => serializer.serialize_str("Infinity"),
            _ => serializer.serialize_str("-Infinity"),
        }
    }
}

impl<'de> Deserialize<'de> for Figure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number, \"NaN\", \"Infinity\" or \"-Infinity\"")]
        enum Form {
            Number(f64),
            Name(Name),
        }
        #[derive(Deserialize)]
        enum Name {
            #[serde(rename = "NaN")]
            NotANumber,
            #[serde(rename = "Infinity")]
            Infinity,
            #[serde(rename = "-Infinity")]
            MinusInfinity,
        }
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::Number(value) => value,
            Form::Name(Name::NotANumber) => f64::NAN,
            Form::Name(Name::Infinity) => f64::INFINITY,
            Form::Name(Name::MinusInfinity) => f64::NEG_INFINITY,
        }))
    }
}

/// The same for a figure that a run may lack.
pub(super) mod option {
    use super::{Deserialize, Deserializer, Figure, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Figure).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Figure>::deserialize(deserializer)?.map(|figure| figure.0))
    }
}

/// The same for a list.
pub(super) mod list {
    use super::{Deserialize, Deserializer, Figure, Serializer};

    pub(crate) fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|&value| Figure(value)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        Ok(Vec::<Figure>::deserialize(deserializer)?.into_iter().map(|figure| figure.0).collect())
    }
}
