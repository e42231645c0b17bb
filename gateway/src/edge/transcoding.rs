//! Transcoding of a route: how the JSON of its calls is read and printed.
//!
//! Lives here: one policy and what the gateway's file says, put together. Does not: reading and printing (`weft-transcode`), how much JSON may have
//! (`edge::limits`).

use weft_model::{StreamFormat, Transcoding as Policy};
use weft_transcode::{
    Codec,
    settings::{self, JsonOutput, Settings},
};

/// The codec of what a policy is about, where that of all calls is `usual`.
pub(crate) fn codec(usual: &Codec, it: &Policy) -> Codec {
    let settings = usual.settings();
    let (own, all) = (it.json_output, settings.json_output);
    usual.with(Settings {
        infer_update_mask: it.infer_update_mask.unwrap_or(settings.infer_update_mask),
        stream_format: it.stream_format.map_or(settings.stream_format, stream_format),
        json_output: JsonOutput {
            emit_defaults: own.emit_defaults.unwrap_or(all.emit_defaults),
            preserve_proto_names: own.preserve_proto_names.unwrap_or(all.preserve_proto_names),
            enums_as_ints: own.enums_as_ints.unwrap_or(all.enums_as_ints),
        },
        ..settings.clone()
    })
}

fn stream_format(it: StreamFormat) -> settings::StreamFormat {
    match it {
        StreamFormat::JsonArray => settings::StreamFormat::JsonArray,
        StreamFormat::Ndjson => settings::StreamFormat::Ndjson,
        StreamFormat::Sse => settings::StreamFormat::Sse,
    }
}

#[cfg(test)]
mod tests {
    use weft_model::JsonOutput as Own;
    use weft_transcode::settings::Unknown;

    use super::*;

    #[test]
    fn what_a_policy_leaves_out_is_as_the_file_says() {
        let all = JsonOutput { emit_defaults: true, enums_as_ints: true, ..JsonOutput::default() };
        let file = Settings { unknown_body: Unknown::Reject, json_output: all, ..Settings::default() };
        let own = Own { enums_as_ints: Some(false), preserve_proto_names: Some(true), ..Own::default() };
        let policy = Policy { json_output: own, stream_format: Some(StreamFormat::Sse), ..Policy::default() };
        let expected = Settings {
            stream_format: settings::StreamFormat::Sse,
            json_output: JsonOutput { emit_defaults: true, preserve_proto_names: true, enums_as_ints: false },
            ..file.clone()
        };
        assert_eq!(codec(&Codec::new(file), &policy).settings(), &expected);
    }
}
