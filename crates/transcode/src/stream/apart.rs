//! Request messages that arrive one by one, as over a WebSocket: nobody has to find where each ends.
//!
//! Lives here: one JSON document, or some raw bytes, to one request message; path and query to the first. Does not: documents of a body
//! (`stream::split`), what ends a stream of them (the gateway's).

use std::sync::Arc;

use bytes::Bytes;

use super::Check;
use crate::bind::{BindError, Bindings, RequestParts};
use crate::codec::json::Position;
use crate::codec::{Codec, raw};
use crate::plan::MethodPlan;

/// Reads request messages that stand apart.
#[derive(Debug)]
pub struct MessageReader {
    codec: Codec,
    plan: Arc<MethodPlan>,
    /// Path and query, until the first message takes them.
    bindings: Option<Bindings>,
    check: Check,
}

impl MessageReader {
    /// Returns a reader of messages for one call.
    ///
    /// # Errors
    /// `BindError` about path or query.
    pub fn new(codec: &Codec, plan: &Arc<MethodPlan>, parts: RequestParts<'_>) -> Result<Self, BindError> {
        codec.check_head(plan, parts)?;
        let bindings = Bindings::read(plan, parts, codec.settings())?;
        Ok(Self { codec: codec.clone(), plan: Arc::clone(plan), bindings: Some(bindings), check: Check::default() })
    }

    /// Returns the reader with a check of its JSON.
    #[must_use]
    pub fn checked(self, check: Check) -> Self {
        Self { check, ..self }
    }

    /// Returns the message that path and query are without a body, encoded; none if the binding has one, whose messages are to be read.
    ///
    /// # Errors
    /// `BindError` about path or query.
    pub fn whole_head(&mut self) -> Result<Option<Bytes>, BindError> {
        if self.plan.has_body() { Ok(None) } else { self.bind(Vec::new()).map(Some) }
    }

    /// Returns the request message that a JSON document is, or that raw bytes are where the body is a `google.api.HttpBody`, encoded.
    ///
    /// # Errors
    /// `BindError` for what cannot be a message; the call should be cancelled and the error answered.
    pub fn read(&mut self, document: &[u8]) -> Result<Bytes, BindError> {
        let message = match self.plan.takes_raw_body() {
            true => raw::message(&self.plan, None, document),
            false => {
                self.check.pass(document)?;
                self.codec.json_message(&self.plan, document, Position::START)?
            }
        };
        self.bind(message)
    }

    fn bind(&mut self, message: Vec<u8>) -> Result<Bytes, BindError> {
        let message = match self.bindings.take() {
            Some(bindings) => bindings.apply(self.plan.method().input(), message)?,
            None => message,
        };
        Ok(message.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{decode, plan, print};
    use crate::routes::PathVariables;
    use crate::settings::Settings;

    fn reader(template: &str, query: Option<&str>) -> (MessageReader, Arc<MethodPlan>) {
        let plan = plan(template);
        let variables = PathVariables(vec!["v".to_owned(); plan.variables().len()]);
        let parts = RequestParts { http_method: "POST", variables: &variables, query, content_type: None };
        let codec = Codec::new(Settings::default());
        (MessageReader::new(&codec, &plan, parts).expect("path and query are fine"), plan)
    }

    #[test]
    fn each_document_is_a_message_and_path_and_query_belong_to_the_first() {
        let (mut reader, plan) = reader("/collect/{text}", Some("i32=5"));
        assert_eq!(reader.whole_head().unwrap(), None);
        let mut read = |document: &str| {
            let message = reader.read(document.as_bytes()).unwrap();
            print(&decode(plan.method().input(), &message)).to_string()
        };
        assert_eq!(read(r#"{"name":"a"}"#), r#"{"i32":5,"text":"v","nested":{"name":"a"}}"#);
        assert_eq!(read(r#"{"name":"b"}"#), r#"{"nested":{"name":"b"}}"#);
        for wrong in ["[", r#"{"name":1}"#, "{} {}", "7"] {
            assert_eq!(reader.read(wrong.as_bytes()).unwrap_err().http_status, 400, "{wrong}");
        }
    }

    #[test]
    fn without_a_body_path_and_query_are_the_message() {
        let (mut reader, plan) = reader("/get/{text}", Some("i32=5"));
        let message = reader.whole_head().unwrap().expect("nothing else to wait for");
        assert_eq!(print(&decode(plan.method().input(), &message)).to_string(), r#"{"i32":5,"text":"v"}"#);
    }

    #[test]
    fn what_is_wrong_with_the_head_is_said_before_any_message() {
        let plan = plan("/collect/{text}");
        let variables = PathVariables(vec!["v".to_owned()]);
        let parts =
            RequestParts { http_method: "POST", variables: &variables, query: Some("no=1"), content_type: None };
        let error = MessageReader::new(&Codec::new(Settings::default()), &plan, parts).unwrap_err();
        assert_eq!(error.violations[0].field, "no");
    }
}
