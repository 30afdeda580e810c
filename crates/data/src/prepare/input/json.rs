//! What a record says: the text or the turns that a line of JSON holds.

use std::borrow::Cow;
use std::fmt;

use fathom_text::Message;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

/// Fields of an object, and the text between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// A literal, then a field, …, and a last literal: one more literal than fields.
    literals: Vec<String>,
    fields: Vec<String>,
}

impl Template {
    /// The text of one field.
    pub(crate) fn field(name: &str) -> Self {
        Self { literals: vec![String::new(), String::new()], fields: vec![name.to_owned()] }
    }

    /// Of `"{title}\n\n{body}"`; a brace of the text is written twice.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (mut literals, mut fields) = (vec![String::new()], Vec::new());
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            let literal = literals.last_mut().expect("there is always one");
            match character {
                '{' | '}' if rest.next_if_eq(&character).is_some() => literal.push(character),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(character) => name.push(character),
                            None => return Err(format!("{text:?} has a {{ without a }}")),
                        }
                    }
                    fields.push(name);
                    literals.push(String::new());
                }
                '}' => return Err(format!("{text:?} has a }} without a {{; write }}}} for the character")),
                other => literal.push(other),
            }
        }
        if fields.is_empty() {
            return Err(format!("{text:?} names no field; write {{text}} for the field text"));
        }
        Ok(Self { literals, fields })
    }

    /// The fields, in the order in which [`Self::join`] takes their values.
    pub(crate) fn fields(&self) -> &[String] {
        &self.fields
    }

    /// The text, of all fields' values.
    pub(crate) fn join<'a>(&self, mut values: Vec<Cow<'a, str>>) -> Cow<'a, str> {
        if let ([_], true) = (&*values, self.literals.iter().all(String::is_empty)) {
            return values.remove(0);
        }
        let mut text = self.literals[0].clone();
        for (value, literal) in values.iter().zip(&self.literals[1..]) {
            text.push_str(value);
            text.push_str(literal);
        }
        Cow::Owned(text)
    }

    /// The text that a JSON object holds.
    pub(crate) fn read_json<'a>(&self, json: &'a [u8]) -> Result<Cow<'a, str>, String> {
        let mut values = vec![None; self.fields.len()];
        let mut parser = serde_json::Deserializer::from_slice(json);
        let found = Fields { names: &self.fields, values: &mut values };
        found.deserialize(&mut parser).and_then(|()| parser.end()).map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        for (name, value) in self.fields.iter().zip(values) {
            all.push(value.ok_or_else(|| format!("it has no field `{name}`"))?);
        }
        Ok(self.join(all))
    }
}

/// The turns in the field `name` of a JSON object.
pub(crate) fn read_messages(json: &[u8], name: &str) -> Result<Vec<Message>, String> {
    struct Turns<'n>(&'n str);
    impl<'de> Visitor<'de> for Turns<'_> {
        type Value = Option<Vec<Message>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object with the list `{}`", self.0)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut turns = None;
            while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                if key == self.0 {
                    turns = Some(map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(turns)
        }
    }
    let mut parser = serde_json::Deserializer::from_slice(json);
    let turns = parser.deserialize_map(Turns(name)).and_then(|turns| parser.end().map(|()| turns));
    let turns = turns.map_err(|error| error.to_string())?;
    turns.ok_or_else(|| format!("it has no field `{name}`"))
}

/// Takes some fields of an object and passes over the others.
struct Fields<'n, 'v, 'de> {
    names: &'n [String],
    values: &'v mut [Option<Cow<'de, str>>],
}

impl<'de> DeserializeSeed<'de> for Fields<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {}", self.names.join(", "))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            if !self.names.iter().any(|name| *name == key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Value(value) =
                map.next_value().map_err(|error| A::Error::custom(format!("`{key}`: {error}")))?;
            for (name, place) in self.names.iter().zip(&mut *self.values) {
                if *name == key {
                    *place = Some(value.clone());
                }
            }
        }
        Ok(())
    }
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A value that has a text: a string, a number, a boolean, or null, which is empty.
struct Value<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Value(Cow::Owned(number.to_string())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Value(Cow::Owned(number.to_string())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Value(Cow::Owned(number.to_string())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Value(Cow::Owned(value.to_string())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value(Cow::Borrowed("")))
    }
}
