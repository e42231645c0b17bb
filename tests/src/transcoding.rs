//! The REST ⇄ gRPC cases as data: reading them, what a simulated backend answers, and comparing what was seen with what
//! was expected.
//!
//! Lives here: `Case`, `Observed`, `check`. Does not: answering a request, which is the library's
//! (`conformance/transcoding.rs`) or a running gateway's. Messages are compared through prost-reflect's own ProtoJSON,
//! so that the oracle shares no code with what it judges.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, Value as Field};
use serde_json::{Map, Value};

/// One case of the file.
#[derive(Debug, Clone)]
pub struct Case {
    /// Unique, `category/short-name`.
    pub name: String,
    /// Settings of the gateway, under the names of its config file.
    pub config: Map<String, Value>,
    /// The HTTP request to send.
    pub request: Request,
    reply: Value,
    expect: Value,
}

/// An HTTP request.
#[derive(Debug, Clone)]
pub struct Request {
    /// HTTP method.
    pub method: String,
    /// Path and query exactly as on the wire.
    pub path: String,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, if the request has one.
    pub body: Option<Vec<u8>>,
}

/// What the backend answers to the call of a case.
#[derive(Debug, Clone)]
pub struct BackendReply {
    /// Encoded messages.
    pub messages: Vec<Bytes>,
    /// The failure after them, if any.
    pub status: Option<BackendStatus>,
}

/// A failing call, as the backend's trailers tell it.
#[derive(Debug, Clone)]
pub struct BackendStatus {
    /// `grpc-status`.
    pub code: i32,
    /// `grpc-message` before percent-encoding.
    pub message: String,
    /// An encoded `google.rpc.Status`: what `grpc-status-details-bin` holds, before base64. None without details.
    pub details: Option<Bytes>,
}

/// What was seen while a case ran.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Calls that reached the backend.
    pub calls: Vec<Call>,
    /// What the client got.
    pub answer: Answer,
}

/// A call as the backend saw it.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// `package.Service.Method`.
    pub method: String,
    /// Encoded request messages.
    pub requests: Vec<Bytes>,
    /// Whether the client's side ended in order.
    pub complete: bool,
    /// Metadata, names in lower case.
    pub metadata: Vec<(String, String)>,
    /// Time left when the call arrived.
    pub deadline: Option<Duration>,
}

/// An HTTP answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// The cases and the schema that they run against.
#[derive(Debug)]
pub struct Suite {
    /// All cases.
    pub cases: Vec<Case>,
    /// The schema as an encoded `FileDescriptorSet`, imports and options included.
    pub descriptor_set: Vec<u8>,
    pool: DescriptorPool,
}

impl Suite {
    /// Reads the cases of a file of `conformance/transcoding` and compiles their schema.
    ///
    /// # Panics
    /// If the files of the repository are broken.
    pub fn load(file: &str) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = here.join("conformance/transcoding");
        let text = std::fs::read_to_string(folder.join(file)).expect("the cases are in the repository");
        let file: Value = serde_json::from_str(&text).expect("the cases are JSON");
        let includes = [folder.join("protos"), here.join("../proto")];
        let mut compiler = protox::Compiler::new(includes).expect("the include folders exist");
        compiler.include_imports(true).open_file("transcoding.proto").expect("the schema compiles");
        let descriptor_set = compiler.encode_file_descriptor_set();
        let pool = DescriptorPool::decode(descriptor_set.as_slice()).expect("the schema links");
        let cases = file["cases"].as_array().expect("cases are a list").iter().map(Case::read).collect();
        Self { cases, descriptor_set, pool }
    }

    /// Returns what the backend answers when `method` (`package.Service.Method`) is called.
    ///
    /// # Panics
    /// If the schema has no such method or the reply is not of its type.
    pub fn backend_reply(&self, case: &Case, method: &str) -> BackendReply {
        let output = self.method(method).output();
        let encoded = |it: &Value| self.message(&output, it).encode_to_vec().into();
        let messages = match (&case.reply, case.reply.get("message"), case.reply.get("messages")) {
            (Value::Null, _, _) => vec![Bytes::new()],
            (_, Some(one), _) => vec![encoded(one)],
            (_, None, Some(many)) => many.as_array().expect("messages are a list").iter().map(encoded).collect(),
            (_, None, None) => Vec::new(),
        };
        BackendReply { messages, status: case.reply.get("status").map(|it| self.status(it)) }
    }

    /// Compares what was seen with what a case expects; the error says what differs.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn check(&self, case: &Case, observed: &Observed) -> Result<(), String> {
        self.check_expect(&case.expect, observed)
    }

    fn check_expect(&self, expect: &Value, observed: &Observed) -> Result<(), String> {
        let expect = expect.as_object().ok_or("expect is an object")?;
        for (key, wanted) in expect {
            self.check_key(key, wanted, expect, observed).map_err(|reason| format!("{key}: {reason}"))?;
        }
        Ok(())
    }

    fn check_key(
        &self,
        key: &str,
        wanted: &Value,
        expect: &Map<String, Value>,
        observed: &Observed,
    ) -> Result<(), String> {
        let answer = &observed.answer;
        match key {
            "any_of" => {
                let alternatives = wanted.as_array().ok_or("any_of is a list")?;
                let failures: Vec<_> =
                    alternatives.iter().map_while(|it| self.check_expect(it, observed).err()).collect();
                if failures.len() == alternatives.len() { Err(failures.join("; or ")) } else { Ok(()) }
            }
            "grpc_method" => {
                let called: Vec<_> = observed.calls.iter().map(|it| it.method.as_str()).collect();
                same(&called, &vec![wanted.as_str().unwrap_or_default()])
                    .map_err(|it| format!("{it}; the client got {}", answer.describe()))
            }
            "grpc_request" => self.check_requests(std::slice::from_ref(wanted), observed.call()?),
            "grpc_requests" => self.check_requests(wanted.as_array().ok_or("a list")?, observed.call()?),
            "grpc_request_stream_raw" => self.check_raw_stream(wanted, observed.call()?),
            "grpc_metadata" => check_metadata(wanted, observed.call()?),
            "grpc_deadline_ms" => {
                let left = observed.call()?.deadline.ok_or("the call has no deadline")?.as_millis();
                let bound = |name: &str| wanted[name].as_u64().map(u128::from).unwrap_or_default();
                let within = (bound("min")..=bound("max")).contains(&left);
                if within { Ok(()) } else { Err(format!("{left} ms is outside {wanted}")) }
            }
            "http_status" => same(&u64::from(answer.status), &wanted.as_u64().unwrap_or_default())
                .map_err(|it| format!("{it}: {}", answer.describe())),
            "error_code" => check_own_error(wanted, observed),
            "http_headers" => check_headers(wanted, answer),
            "http_body" => {
                let body = answer.json()?;
                let is_error = expect.get("http_status").and_then(Value::as_u64).is_some_and(|it| it >= 400);
                let equal = if is_error { same_status(&body, wanted) } else { same_json(&body, wanted) };
                if equal { Ok(()) } else { Err(format!("{body} is not {wanted}")) }
            }
            "http_body_contains" => {
                let body = answer.json()?;
                let contains = wanted
                    .as_object()
                    .ok_or("an object")?
                    .iter()
                    .all(|(name, it)| body.get(name).is_some_and(|body| same_json(body, it)));
                if contains { Ok(()) } else { Err(format!("{body} does not contain {wanted}")) }
            }
            "http_body_base64" => {
                same(&BASE64_STANDARD.encode(&answer.body).as_str(), &wanted.as_str().unwrap_or_default())
            }
            "http_stream" => check_stream(wanted, answer),
            other => Err(format!("no check for {other}")),
        }
    }

    fn check_requests(&self, wanted: &[Value], call: &Call) -> Result<(), String> {
        let input = self.method(&call.method).input();
        if wanted.len() != call.requests.len() {
            return Err(format!("{} messages arrived, not {}", call.requests.len(), wanted.len()));
        }
        for (bytes, wanted) in call.requests.iter().zip(wanted) {
            let got = DynamicMessage::decode(input.clone(), bytes.clone()).map_err(|error| error.to_string())?;
            let expected = self.message(&input, wanted);
            if !same_message(&got, &expected) {
                return Err(format!("{} is not {wanted}", serde_json::to_string(&got).unwrap_or_default()));
            }
        }
        Ok(())
    }

    fn check_raw_stream(&self, wanted: &Value, call: &Call) -> Result<(), String> {
        let input = self.method(&call.method).input();
        let field =
            input.get_field_by_name(wanted["http_body_field"].as_str().unwrap_or_default()).ok_or("no such field")?;
        let mut data = Vec::new();
        for (at, bytes) in call.requests.iter().enumerate() {
            let mut message =
                DynamicMessage::decode(input.clone(), bytes.clone()).map_err(|error| error.to_string())?;
            let body = message.take_field(&field).ok_or("a message without the body field")?;
            let part =
                |name: &str| body.as_message().and_then(|it| it.get_field_by_name(name)).map(|it| it.into_owned());
            data.extend(part("data").and_then(|it| it.as_bytes().cloned()).unwrap_or_default());
            if at == 0 {
                let expected = self.message(&input, &wanted["first"]);
                if !same_message(&message, &expected) {
                    return Err(format!(
                        "the first message holds {}",
                        serde_json::to_string(&message).unwrap_or_default()
                    ));
                }
                same(
                    &part("content_type").and_then(|it| it.as_str().map(str::to_owned)).as_deref(),
                    &wanted["content_type"].as_str(),
                )?;
            }
        }
        same(&BASE64_STANDARD.encode(data).as_str(), &wanted["data_base64"].as_str().unwrap_or_default())
    }

    fn method(&self, full_name: &str) -> MethodDescriptor {
        let (service, method) = full_name.rsplit_once('.').expect("a method name has a service");
        let service = self.pool.get_service_by_name(service).unwrap_or_else(|| panic!("no service {service}"));
        service.methods().find(|it| it.name() == method).unwrap_or_else(|| panic!("no method {full_name}"))
    }

    fn message(&self, desc: &MessageDescriptor, json: &Value) -> DynamicMessage {
        DynamicMessage::deserialize(desc.clone(), json)
            .unwrap_or_else(|error| panic!("{json} is no {}: {error}", desc.full_name()))
    }

    fn status(&self, status: &Value) -> BackendStatus {
        let (code, message) =
            (status["code"].as_i64().unwrap_or_default() as i32, status["message"].as_str().unwrap_or_default());
        let details: Vec<_> = status["details"].as_array().into_iter().flatten().map(|it| self.detail(it)).collect();
        let rich = RawStatus { code, message: message.to_owned(), details };
        BackendStatus {
            code,
            message: message.to_owned(),
            details: (!rich.details.is_empty()).then(|| rich.encode_to_vec().into()),
        }
    }

    fn detail(&self, detail: &Value) -> RawAny {
        if let Some(raw) = detail.get("raw_any") {
            let value = BASE64_STANDARD.decode(raw["value_base64"].as_str().unwrap_or_default()).expect("base64");
            return RawAny { type_url: raw["type_url"].as_str().unwrap_or_default().to_owned(), value };
        }
        let any = self.pool.get_message_by_name("google.protobuf.Any").expect("the schema imports any.proto");
        let bytes = self.message(&any, detail).encode_to_vec();
        RawAny::decode(bytes.as_slice()).expect("an Any is an Any")
    }
}

impl Case {
    fn read(case: &Value) -> Self {
        let request = &case["request"];
        let text = |it: &Value| it.as_str().expect("a string").to_owned();
        let headers = request["headers"].as_object().into_iter().flatten();
        let plain = request.get("body").map(|it| text(it).into_bytes());
        let encoded = request.get("body_base64").map(|it| BASE64_STANDARD.decode(text(it)).expect("base64"));
        Self {
            name: text(&case["name"]),
            config: case["config"].as_object().cloned().unwrap_or_default(),
            request: Request {
                method: text(&request["method"]),
                path: text(&request["path"]),
                headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), text(value))).collect(),
                body: plain.or(encoded),
            },
            reply: case["backend_reply"].clone(),
            expect: case["expect"].clone(),
        }
    }
}

impl Observed {
    fn call(&self) -> Result<&Call, String> {
        match self.calls.as_slice() {
            [call] => Ok(call),
            calls => {
                Err(format!("the backend was called {} times; the client got {}", calls.len(), self.answer.describe()))
            }
        }
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(&self.body).map_err(|error| format!("{error} in {}", self.describe()))
    }

    fn describe(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body).chars().take(200).collect::<String>())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{got:?} is not {wanted:?}")) }
}

/// An error the gateway made itself: a JSON status with a message, and no call that ended in order.
fn check_own_error(code: &Value, observed: &Observed) -> Result<(), String> {
    let answer = &observed.answer;
    let body = answer.json()?;
    if !same_json(&body["code"], code) {
        return Err(format!("the body is {body}"));
    }
    if body["message"].as_str().is_none_or(str::is_empty) {
        return Err(format!("no message in {body}"));
    }
    check_content_type("application/json", answer)?;
    if observed.calls.iter().any(|it| it.complete) { Err("the backend got a complete call".to_owned()) } else { Ok(()) }
}

fn check_metadata(wanted: &Value, call: &Call) -> Result<(), String> {
    for (name, values) in wanted.as_object().ok_or("an object")? {
        let got: Vec<_> =
            call.metadata.iter().filter(|(it, _)| it == name).map(|(_, value)| Some(value.as_str())).collect();
        let values: Vec<_> = values.as_array().into_iter().flatten().map(Value::as_str).collect();
        same(&got, &values).map_err(|reason| format!("{name}: {reason}"))?;
    }
    Ok(())
}

fn check_headers(wanted: &Value, answer: &Answer) -> Result<(), String> {
    for (name, value) in wanted.as_object().ok_or("an object")? {
        let options: Vec<_> = match value {
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let got = answer.header(name).unwrap_or_default();
        let fits = match name.as_str() {
            "allow" => options.iter().all(|it| got.split(',').any(|got| got.trim() == *it)),
            "content-type" => options.iter().any(|it| check_content_type(it, answer).is_ok()),
            _ => options.contains(&got),
        };
        if !fits {
            return Err(format!("{name} is {got:?}, not {value}"));
        }
    }
    Ok(())
}

/// Parameters count only if the case names them.
fn check_content_type(wanted: &str, answer: &Answer) -> Result<(), String> {
    let got = answer.header("content-type").unwrap_or_default();
    let got = if wanted.contains(';') { got } else { got.split(';').next().unwrap_or_default().trim() };
    same(&got.to_ascii_lowercase(), &wanted.to_ascii_lowercase())
}

fn check_stream(wanted: &Value, answer: &Answer) -> Result<(), String> {
    let text = std::str::from_utf8(&answer.body).map_err(|error| error.to_string())?;
    let parse = |it: &str| serde_json::from_str::<Value>(it).map_err(|error| format!("{error} in {it:?}"));
    let got = match wanted["framing"].as_str().unwrap_or_default() {
        "json_array" => parse(text)?.as_array().ok_or("not an array")?.clone(),
        "ndjson" => {
            let lines = text.strip_suffix('\n').unwrap_or(text);
            lines.split('\n').filter(|_| !text.is_empty()).map(parse).collect::<Result<_, _>>()?
        }
        "sse" => sse_data(text).iter().map(|it| parse(it)).collect::<Result<_, _>>()?,
        other => return Err(format!("no framing {other}")),
    };
    let mut messages = wanted["messages"].as_array().ok_or("messages are a list")?.clone();
    let error = wanted.get("error");
    messages.extend(error.map(|it| serde_json::json!({ "error": it })));
    let equal = got.len() == messages.len()
        && got.iter().zip(&messages).enumerate().all(|(at, (got, wanted))| match error {
            Some(error) if at == messages.len() - 1 => same_status(&got["error"], error),
            _ => same_json(got, wanted),
        });
    if equal { Ok(()) } else { Err(format!("{got:?} is not {messages:?}")) }
}

/// Returns the data of each event, its lines joined.
fn sse_data(text: &str) -> Vec<String> {
    let events = text.split("\n\n").map(|event| {
        let data = event.lines().filter_map(|it| it.strip_prefix("data:"));
        data.map(|it| it.strip_prefix(' ').unwrap_or(it)).collect::<Vec<_>>().join("\n")
    });
    events.filter(|it| !it.is_empty()).collect()
}

/// Compares statuses, where no details are the same as none.
fn same_status(got: &Value, wanted: &Value) -> bool {
    let normal = |it: &Value| {
        let mut it = it.clone();
        if it["details"].as_array().is_some_and(Vec::is_empty) {
            it.as_object_mut().and_then(|it| it.shift_remove("details"));
        }
        it
    };
    same_json(&normal(got), &normal(wanted))
}

/// Compares JSON values: numbers by value, members in any order.
fn same_json(got: &Value, wanted: &Value) -> bool {
    match (got, wanted) {
        (Value::Number(got), Value::Number(wanted)) => got == wanted || got.as_f64() == wanted.as_f64(),
        (Value::Array(got), Value::Array(wanted)) => {
            got.len() == wanted.len() && got.iter().zip(wanted).all(|(got, wanted)| same_json(got, wanted))
        }
        (Value::Object(got), Value::Object(wanted)) => {
            got.len() == wanted.len()
                && got.iter().all(|(name, got)| wanted.get(name).is_some_and(|wanted| same_json(got, wanted)))
        }
        _ => got == wanted,
    }
}

/// Compares messages field by field, presence included; NaN is itself.
fn same_message(got: &DynamicMessage, wanted: &DynamicMessage) -> bool {
    let count = |it: &DynamicMessage| it.fields().count() + it.unknown_fields().count();
    count(got) == count(wanted)
        && got.fields().all(|(field, value)| wanted.has_field(&field) && same_field(value, &wanted.get_field(&field)))
}

fn same_field(got: &Field, wanted: &Field) -> bool {
    match (got, wanted) {
        // serde_json reads the cases' doubles to within two units in the last place, not exactly.
        (Field::F64(got), Field::F64(wanted)) => {
            got.to_bits().abs_diff(wanted.to_bits()) <= 2 || (got.is_nan() && wanted.is_nan())
        }
        (Field::F32(got), Field::F32(wanted)) => got == wanted || (got.is_nan() && wanted.is_nan()),
        (Field::Message(got), Field::Message(wanted)) => same_message(got, wanted),
        (Field::List(got), Field::List(wanted)) => {
            got.len() == wanted.len() && got.iter().zip(wanted).all(|(got, wanted)| same_field(got, wanted))
        }
        (Field::Map(got), Field::Map(wanted)) => {
            got.len() == wanted.len()
                && got.iter().all(|(key, got)| wanted.get(key).is_some_and(|wanted| same_field(got, wanted)))
        }
        _ => got == wanted,
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RawStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RawAny>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct RawAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}
