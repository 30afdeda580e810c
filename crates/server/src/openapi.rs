//! The OpenAPI description, generated from the types that are parsed and written.

use axum::Json;
use utoipa::openapi::OpenApi as Description;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::chat::ChatChunk;
use crate::{anthropic, chat, completions, routes};

#[derive(OpenApi)]
#[openapi(
    info(title = "Fathom", description = "The DeepSeek, OpenAI and Anthropic API on a model of the DeepSeek family."),
    paths(
        chat::complete,
        completions::complete,
        routes::models,
        routes::model,
        anthropic::messages,
        anthropic::count_tokens,
        routes::health,
        routes::ready
    ),
    components(schemas(ChatChunk)),
    modifiers(&Schemes)
)]
struct Api;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, api: &mut Description) {
        let components = api.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let header = ApiKey::Header(ApiKeyValue::new("x-api-key"));
        components.add_security_scheme("x-api-key", SecurityScheme::ApiKey(header));
    }
}

/// What the API's paths take and answer, as OpenAPI 3.1 says it.
pub fn description() -> Description {
    Api::openapi()
}

pub(crate) async fn serve() -> Json<Description> {
    Json(description())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_path_and_every_schema_is_there() {
        let json = serde_json::to_value(super::description()).unwrap();
        for path in ["/v1/chat/completions", "/v1/completions", "/v1/models/{id}", "/anthropic/v1/messages"] {
            assert!(json["paths"][path].is_object(), "{path}");
        }
        let text = json.to_string();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let name = reference.split('"').next().unwrap();
            let pointer = name.strip_prefix('#').unwrap();
            assert!(json.pointer(pointer).is_some(), "{name} is not described");
        }
    }
}
