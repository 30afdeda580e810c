//! Reading a request's body: size, time, form.

use axum::body::{Body, Bytes, HttpBody as _};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api_error::{ApiError, ApiResult};
use crate::app::App;

/// Reads a JSON body within the limits of size, time and memory.
pub(crate) async fn read(app: &App, headers: &HeaderMap, body: Body) -> ApiResult<Bytes> {
    // A page of another origin can send anything but this without asking first.
    let json = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json);
    if !json {
        return Err(ApiError::format("Invalid Format: send `Content-Type: application/json`"));
    }
    let limit = app.config.max_body_bytes;
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(ApiError::too_large(limit));
    }
    let expected = hint.upper().map_or(limit, |upper| limit.min(usize::try_from(upper).unwrap_or(limit)));
    // A setting keeps it below 2³².
    let kibibytes = expected.div_ceil(1024) as u32;
    let reading = async {
        let _held = app.bodies.acquire_many(kibibytes).await.map_err(ApiError::internal)?;
        axum::body::to_bytes(body, limit).await.map_err(|error| {
            if is_length_limit(&error) {
                ApiError::too_large(limit)
            } else {
                ApiError::format("the body broke off")
            }
        })
    };
    match tokio::time::timeout(app.limits.body_timeout, reading).await {
        Ok(read) => read,
        Err(_) => Err(ApiError::format("the body did not come in time")),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = cause {
        if inner.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// The request in a body. Fields in `ignored` cannot change an answer: clients may send them.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8], ignored: &[&str]) -> ApiResult<T> {
    let text = std::str::from_utf8(body)
        .map_err(|error| ApiError::format(format!("Invalid Format: the body is not UTF-8: {error}")))?;
    let value: Value = serde_json::from_str(text)
        .map_err(|error| ApiError::format(format!("Invalid Format: the body is not JSON: {error}")))?;
    let Value::Object(mut fields) = value else {
        return Err(ApiError::format("Invalid Format: the body is not a JSON object"));
    };
    for name in ignored {
        fields.shift_remove(*name);
    }
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let param = match unknown_or_missing(&reason) {
            Some(name) if path == "." => name.to_owned(),
            Some(name) if !path.ends_with(name) => format!("{path}.{name}"),
            _ => path,
        };
        ApiError::param(param.clone(), format!("Invalid Parameters: `{param}`: {reason}"))
    })
}

/// The field that serde's message is about.
fn unknown_or_missing(reason: &str) -> Option<&str> {
    let rest = reason.strip_prefix("unknown field `").or_else(|| reason.strip_prefix("missing field `"))?;
    rest.split_once('`').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        a: Option<u32>,
        inner: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        b: String,
    }

    #[track_caller]
    fn check(body: &[u8], status: u16, param: Option<&str>) {
        let error = parse::<Outer>(body, &["store"]).unwrap_err();
        assert_eq!((error.status.as_u16(), error.param.as_deref()), (status, param), "{}", error.message);
    }

    #[test]
    fn the_wrong_field_is_named() {
        let good = parse::<Outer>(br#"{"inner":[{"b":"x"}],"store":{"deep":1}}"#, &["store"]).unwrap();
        assert_eq!(good, Outer { a: None, inner: vec![Inner { b: "x".to_owned() }] });
        check(b"", 400, None);
        check(b"[]", 400, None);
        check(b"{\"a\":", 400, None);
        check(b"{\"a\":\"\xff\"}", 400, None);
        check(br#"{"a":"\ud800"}"#, 400, None);
        check(&[b'['; 100_000], 400, None);
        check(br#"{"inner":[],"x":1}"#, 422, Some("x"));
        check(br#"{}"#, 422, Some("inner"));
        check(br#"{"inner":[],"a":-1}"#, 422, Some("a"));
        check(br#"{"inner":[{"b":"x"},{"b":1}]}"#, 422, Some("inner[1].b"));
        check(br#"{"inner":[{"b":"x","c":1}]}"#, 422, Some("inner[0].c"));
        check(br#"{"inner":[{}]}"#, 422, Some("inner[0].b"));
    }

    #[test]
    fn content_types() {
        for (text, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/plain", false),
            ("application/jsonx", false),
            ("", false),
        ] {
            assert_eq!(is_json(text), json, "{text:?}");
        }
    }
}
