//! Inputs to begin with, out of the conformance cases.
//!
//! Lives here: what a case's request is to each target. Does not: changing them (`main`, and the fuzzer).

use std::path::Path;

use serde_json::Value as Json;
use weft_transcode::routes::PathVariables;
use weft_transcode::{Codec, RequestParts};

use crate::targets::Subject;

/// The requests of the conformance cases.
pub(crate) struct Seeds(Vec<Request>);

struct Request {
    method: String,
    path: String,
    body: String,
}

impl Seeds {
    /// Takes the root of the repository.
    pub(crate) fn new(root: &Path) -> Self {
        let mut requests = Vec::new();
        for file in ["transcoding.json", "more.json"] {
            let text =
                std::fs::read(root.join("tests/conformance/transcoding").join(file)).expect("the cases are there");
            let file: Json = serde_json::from_slice(&text).expect("they are JSON");
            for case in file["cases"].as_array().expect("a list") {
                let text = |name: &str| case["request"][name].as_str().unwrap_or_default().to_owned();
                requests.push(Request { method: text("method"), path: text("path"), body: text("body") });
            }
        }
        Self(requests)
    }

    fn bodies(&self, path: &str) -> impl Iterator<Item = &[u8]> {
        let wanted = self.0.iter().filter(move |it| it.path.starts_with(path) && !it.body.is_empty());
        wanted.map(|it| it.body.as_bytes())
    }

    pub(crate) fn json(&self) -> Vec<Vec<u8>> {
        self.bodies("/k/echo").map(<[u8]>::to_vec).collect()
    }

    pub(crate) fn wire(&self, subject: &Subject) -> Vec<Vec<u8>> {
        let (codec, variables) = (Codec::default(), PathVariables::default());
        let parts = RequestParts { http_method: "POST", variables: &variables, query: None, content_type: None };
        let read = self.bodies("/k/echo").filter_map(|body| codec.decode_request(subject.echo(), parts, body).ok());
        read.map(|it| it.to_vec()).collect()
    }

    pub(crate) fn requests(&self) -> Vec<Vec<u8>> {
        self.0.iter().map(|Request { method, path, body }| format!("{method} {path}\n{body}").into_bytes()).collect()
    }

    /// In pieces of seven bytes.
    pub(crate) fn streams(&self) -> Vec<Vec<u8>> {
        self.bodies("/s/").map(|body| [&[7][..], body].concat()).collect()
    }
}
