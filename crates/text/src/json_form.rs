//! JSON as a model may write it.

use serde_json::{Value, json};

/// Between two tokens of JSON: a line end and an indentation of 63, but no more. A model that is not sure what comes next
/// may otherwise write white space until its answer is cut.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,64}";

/// The schema, with a bound on white space where it says nothing of it itself (`x-guidance`, as `llguidance` reads it).
pub fn with_bounded_white_space(schema: &Value) -> Value {
    let mut bounded = match schema {
        Value::Object(fields) => fields.clone(),
        Value::Bool(true) => serde_json::Map::new(),
        other => return other.clone(),
    };
    bounded.entry("x-guidance").or_insert_with(|| json!({ "whitespace_pattern": WHITE_SPACE }));
    Value::Object(bounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_schema_says_itself_stays() {
        let own = json!({ "type": "null", "x-guidance": { "whitespace_flexible": false } });
        assert_eq!(with_bounded_white_space(&own), own);
        assert_eq!(with_bounded_white_space(&json!(false)), json!(false));
        let bounded = json!({ "x-guidance": { "whitespace_pattern": WHITE_SPACE } });
        assert_eq!(with_bounded_white_space(&json!(true)), bounded);
        assert_eq!(with_bounded_white_space(&json!({})), bounded);
    }
}
