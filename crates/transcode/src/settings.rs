//! What a person may set about transcoding: the `[transcoding]` table of the gateway's config file.
//!
//! Lives here: the settings, their names, values and defaults. Does not: limits on bytes and time (`[limits]`, the
//! gateway's), or what a setting does.

use serde::Deserialize;

/// How requests are read and replies are printed. Every key may be left out; unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How percent escapes in multi-segment path variables are decoded; single-segment ones are always decoded fully.
    pub path_unescape: PathUnescape,
    /// Whether `+` in a query string is a space. Default false: it is a plus.
    pub query_plus_as_space: bool,
    /// What becomes of a query parameter that names no field. Default: 400 naming it.
    pub unknown_query: Unknown,
    /// Query parameters skipped before anything else looks at them, for instance API keys. Default none.
    pub ignored_query_params: Vec<String>,
    /// What becomes of what a body names and the schema does not have: members that are no field, and names of enum values, with the value that they are.
    /// Default: ignored, as the protobuf conformance suite has it. A field of whose value something was ignored is in no inferred `update_mask`.
    pub unknown_body: Unknown,
    /// Whether enum names are matched without regard to case. Default false.
    pub case_insensitive_enums: bool,
    /// Whether a PATCH whose body is one field gets its `update_mask` from the members present, less what only the service sets.
    /// Default false.
    pub infer_update_mask: bool,
    /// How the replies of a server stream are framed when `Accept` does not say. Default one JSON array.
    pub stream_format: StreamFormat,
    /// How replies are printed.
    pub json_output: JsonOutput,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            path_unescape: PathUnescape::ExceptReserved,
            query_plus_as_space: false,
            unknown_query: Unknown::Reject,
            ignored_query_params: Vec::new(),
            unknown_body: Unknown::Ignore,
            case_insensitive_enums: false,
            infer_update_mask: false,
            stream_format: StreamFormat::JsonArray,
            json_output: JsonOutput::default(),
        }
    }
}

/// Which percent escapes of a multi-segment path variable are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathUnescape {
    /// All but those of RFC 6570's reserved characters, which stay as sent (`google.api.Http`,
    /// `fully_decode_reserved_expansion` = false).
    #[default]
    ExceptReserved,
    /// All but `%2F`, so that segments stay apart.
    ExceptSlash,
    /// All; a decoded slash can then no longer be told from a separator.
    All,
}

/// What becomes of a name that the schema does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// The request is refused with 400 and the name.
    Reject,
    /// The value is skipped.
    Ignore,
}

/// How the messages of a server stream follow one another in the HTTP body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamFormat {
    /// `[M,M]`, `application/json`.
    #[default]
    JsonArray,
    /// One message a line, `application/x-ndjson`.
    Ndjson,
    /// One `data:` event per message, `text/event-stream`.
    Sse,
}

/// How reply messages are printed. All false by default: ProtoJSON as the specification has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JsonOutput {
    /// Print fields without presence that hold their default; unset messages and oneofs stay out.
    pub emit_defaults: bool,
    /// Print `field_name` as in the proto file in place of `fieldName`.
    pub preserve_proto_names: bool,
    /// Print enum values as numbers.
    pub enums_as_ints: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_config_file_and_others_are_errors() {
        let text = r#"{"path_unescape":"except_slash","query_plus_as_space":true,"unknown_query":"ignore","ignored_query_params":["key"],
            "unknown_body":"reject","case_insensitive_enums":true,"infer_update_mask":true,"stream_format":"sse",
            "json_output":{"emit_defaults":true,"preserve_proto_names":true,"enums_as_ints":true}}"#;
        let settings: Settings = serde_json::from_str(text).unwrap();
        let output = JsonOutput { emit_defaults: true, preserve_proto_names: true, enums_as_ints: true };
        let expected = Settings {
            path_unescape: PathUnescape::ExceptSlash,
            query_plus_as_space: true,
            unknown_query: Unknown::Ignore,
            ignored_query_params: vec!["key".to_owned()],
            unknown_body: Unknown::Reject,
            case_insensitive_enums: true,
            infer_update_mask: true,
            stream_format: StreamFormat::Sse,
            json_output: output,
        };
        assert_eq!(settings, expected);
        assert_eq!(serde_json::from_str::<Settings>("{}").unwrap(), Settings::default());
        for wrong in [r#"{"max_request_bytes":1}"#, r#"{"json_output":{"indent":2}}"#, r#"{"stream_format":"xml"}"#] {
            assert!(serde_json::from_str::<Settings>(wrong).is_err(), "{wrong}");
        }
    }
}
