//! Who may call: security schemes of a document.
//!
//! Lives here: the form of schemes and of what an operation needs. Does not: knowing policies, which the gateway does.

use serde_json::{Map, Value, json};

const BEARER: &str = "bearer";
const CERTIFICATE: &str = "certificate";

/// What a call of one method has to show, one of these.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// A token in `authorization`.
    pub bearer: bool,
    /// A key, in the header of this name.
    pub api_key: Option<String>,
    /// A client's certificate.
    pub certificate: bool,
    /// Nothing is enough, too.
    pub anonymous: bool,
}

/// Adds to a document what its operations need; `of` knows it by gRPC path, none for a method that anybody may call.
pub fn secure(document: &mut Value, of: impl Fn(&str) -> Option<Security>) {
    let mut schemes = Map::new();
    let items = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    for item in items {
        let Some(members) = item.as_object_mut() else { continue };
        for (name, member) in members {
            let operations: Vec<&mut Value> = match name.as_str() {
                "x-weft-methods" => member.as_object_mut().into_iter().flat_map(|it| it.values_mut()).collect(),
                _ => vec![member],
            };
            for operation in operations {
                let Some(security) = operation["x-weft-grpc"].as_str().and_then(&of) else { continue };
                operation["security"] = needs(&security, &mut schemes);
            }
        }
    }
    if !schemes.is_empty() {
        document["components"]["securitySchemes"] = Value::Object(schemes);
    }
}

fn needs(security: &Security, schemes: &mut Map<String, Value>) -> Value {
    let mut ways = Vec::new();
    if security.bearer {
        let scheme = json!({ "type": "http", "scheme": "bearer", "bearerFormat": "JWT" });
        schemes.entry(BEARER).or_insert(scheme);
        ways.push(json!({ BEARER: [] }));
    }
    if let Some(header) = &security.api_key {
        let name = format!("key.{header}");
        ways.push(json!({ &name: [] }));
        schemes.entry(name).or_insert_with(|| json!({ "type": "apiKey", "in": "header", "name": header }));
    }
    if security.certificate {
        schemes.entry(CERTIFICATE).or_insert_with(|| json!({ "type": "mutualTLS" }));
        ways.push(json!({ CERTIFICATE: [] }));
    }
    if security.anonymous {
        ways.push(json!({}));
    }
    Value::Array(ways)
}
