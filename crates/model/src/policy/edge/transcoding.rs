//! Transcoding policies: how the JSON of calls from outside is read and printed.
//!
//! Lives here: what a policy says. Does not: reading or printing anything (`weft-transcode`), what holds where none speaks (the gateway's file).

use super::Methods;
use crate::Invalid;

/// How JSON is read and printed; what is left out is as the gateway has it for all calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transcoding {
    /// Which methods of the service it is about.
    pub methods: Methods,
    /// Whether a PATCH whose body is one field says by its members what is changed.
    pub infer_update_mask: Option<bool>,
    /// How the replies of a server stream follow one another where `Accept` does not say.
    pub stream_format: Option<StreamFormat>,
    /// How replies are printed.
    pub json_output: JsonOutput,
}

/// How the messages of a server stream follow one another in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamFormat {
    /// One JSON array.
    JsonArray,
    /// One message a line.
    Ndjson,
    /// One message an event.
    Sse,
}

/// How messages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JsonOutput {
    /// Whether fields are printed that hold their default.
    pub emit_defaults: Option<bool>,
    /// Whether members have the names of the proto file.
    pub preserve_proto_names: Option<bool>,
    /// Whether enums are numbers.
    pub enums_as_ints: Option<bool>,
}

impl Transcoding {
    /// Accepts what says something.
    pub fn checked(self) -> Result<Self, Invalid> {
        if self == (Self { methods: self.methods.clone(), ..Self::default() }) {
            return Err(Invalid::new(
                "",
                "says nothing; give one of infer_update_mask, stream_format, json_output.emit_defaults, json_output.preserve_proto_names, \
                 json_output.enums_as_ints",
            ));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_something() {
        let nothing = Transcoding::default();
        assert_eq!(nothing.clone().checked().unwrap_err().field(), "");
        assert!(Transcoding { infer_update_mask: Some(false), ..nothing.clone() }.checked().is_ok());
        let json_output = JsonOutput { enums_as_ints: Some(false), ..JsonOutput::default() };
        assert!(
            Transcoding { json_output, ..nothing }.checked().is_ok(),
            "false is a word, too: the file may say true"
        );
    }
}
