//! Conformance: the REST ⇄ gRPC cases answered by weft-transcode alone. Inventory: route-request.
//!
//! Lives here: a gateway reduced to its decisions (no sockets, no clock, a backend that is a list of messages), and the
//! score. Does not: reading cases or comparing (`weft_tests::transcoding`).

use weft_model::timeout;
use weft_tests::transcoding::{Answer, BackendReply, Call, Case, Observed, Suite};
use weft_transcode::bind::{BindError, RequestParts};
use weft_transcode::metadata;
use weft_transcode::routes::{Lookup, Match, RouteTable};
use weft_transcode::{Codec, Schema, Settings, Status};

/// Cases that must hold. They only rise.
const FLOOR: usize = 340;
const FLOOR_OF_OURS: usize = 407;

#[test]
fn the_library_holds_the_public_cases() {
    hold("transcoding.json", FLOOR);
}

#[test]
fn the_library_holds_our_own_cases() {
    hold("more.json", FLOOR_OF_OURS);
}

fn hold(file: &str, floor: usize) {
    let suite = Suite::load(file);
    let schema = Schema::decode(&suite.descriptor_set).expect("the schema links");
    assert_eq!(schema.problems(), []);
    let table = RouteTable::builder().add(&schema, ()).build();
    assert_eq!(table.problems(), []);
    let failures: Vec<String> = suite
        .cases
        .iter()
        .filter_map(|case| {
            let observed = Gateway::new(&suite, &table, case).answer();
            suite.check(case, &observed).err().map(|reason| format!("{}: {reason}", case.name))
        })
        .collect();
    let held = suite.cases.len() - failures.len();
    println!("transcoding cases of {file}: {held} of {}", suite.cases.len());
    assert!(held >= floor, "{held} cases hold, the floor is {floor}; failing:\n{}", failures.join("\n"));
}

/// One request through the library.
struct Gateway<'a> {
    suite: &'a Suite,
    table: &'a RouteTable<()>,
    case: &'a Case,
    codec: Codec,
    max_request_bytes: u64,
    calls: Vec<Call>,
}

/// What ends a request early.
enum Refusal {
    Bind(BindError),
    NotAllowed(BindError, Vec<String>),
}

impl From<BindError> for Refusal {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

impl<'a> Gateway<'a> {
    fn new(suite: &'a Suite, table: &'a RouteTable<()>, case: &'a Case) -> Self {
        let mut config = case.config.clone();
        let limit = config.shift_remove("max_request_bytes").and_then(|it| it.as_u64());
        let settings: Settings = serde_json::from_value(config.into()).expect("a case's config is the settings'");
        Self {
            suite,
            table,
            case,
            codec: Codec::new(settings),
            max_request_bytes: limit.unwrap_or(u64::MAX),
            calls: Vec::new(),
        }
    }

    fn answer(mut self) -> Observed {
        let answer = self.route().unwrap_or_else(|refusal| {
            let (error, allow) = match refusal {
                Refusal::Bind(error) => (error, None),
                Refusal::NotAllowed(error, allow) => (error, Some(allow.join(", "))),
            };
            let mut answer = json_answer(error.http_status, self.codec.encode_status(&error.status(), None).to_vec());
            answer.headers.extend(allow.map(|it| ("allow".to_owned(), it)));
            answer
        });
        Observed { calls: self.calls, answer }
    }

    fn route(&mut self) -> Result<Answer, Refusal> {
        let request = &self.case.request;
        let (path, query) =
            request.path.split_once('?').map_or((request.path.as_str(), None), |(path, query)| (path, Some(query)));
        let found = match self.table.lookup(&request.method, path) {
            Lookup::Found(found) => found,
            Lookup::NotFound => return Err(BindError::not_found(path).into()),
            Lookup::MethodNotAllowed { allow } => {
                return Err(Refusal::NotAllowed(BindError::method_not_allowed(&request.method, &allow), allow));
            }
        };
        let header = |name: &str| request.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str());
        let parts = RequestParts {
            http_method: &request.method,
            variables: &found.variables,
            query,
            content_type: header("content-type"),
        };
        let mut call = Call { method: found.plan.method().full_name().to_owned(), ..Call::default() };
        call.deadline = match header(timeout::NAME) {
            Some(value) => {
                Some(timeout::read(value.as_bytes()).ok_or_else(|| BindError::field(timeout::NAME, "malformed"))?)
            }
            None => None,
        };
        call.metadata = request.headers.iter().filter(|(name, _)| metadata::is_forwarded(name)).cloned().collect();
        self.codec.check_head(&found.plan, parts)?;
        let body = request.body.as_deref().unwrap_or_default();
        if body.len() as u64 > self.max_request_bytes {
            return Err(BindError::too_large(self.max_request_bytes).into());
        }
        self.calls.push(call);
        let sent = self.send(&found, parts, body);
        self.calls[0].complete = sent.is_ok();
        if let Err(error) = sent {
            // A stream's backend has seen a call that broke off; a single message was never sent.
            self.calls.retain(|it| !it.requests.is_empty());
            return Err(error.into());
        }
        let reply = self.suite.backend_reply(self.case, &self.calls[0].method);
        Ok(self.reply(&found, &reply))
    }

    /// Sends the request messages; those of a stream arrive in chunks of an awkward size.
    fn send(&mut self, found: &Match<()>, parts: RequestParts<'_>, body: &[u8]) -> Result<(), BindError> {
        let requests = &mut self.calls[0].requests;
        if !found.plan.method().streaming().client() {
            requests.push(self.codec.decode_request(&found.plan, parts, body)?);
            return Ok(());
        }
        let mut stream = self.codec.request_stream(&found.plan, parts)?;
        for chunk in body.chunks(7) {
            requests.extend(stream.feed(chunk)?);
        }
        requests.extend(stream.finish()?);
        Ok(())
    }

    fn reply(&self, found: &Match<()>, reply: &BackendReply) -> Answer {
        let status = reply.status.as_ref().map(|it| {
            let encoded = it.details.as_ref().map(|it| base64(it));
            Status::from_trailers(it.code, Some(escape(&it.message).as_bytes()), encoded.as_deref().map(str::as_bytes))
        });
        let failure = |status: &Status| {
            json_answer(status.http_status(), self.codec.encode_status(status, Some(&found.plan)).to_vec())
        };
        if !found.plan.method().streaming().server() {
            if let Some(status) = status {
                return failure(&status);
            }
            return match self.codec.encode_reply(&found.plan, &reply.messages[0]) {
                Ok(reply) => Answer {
                    status: 200,
                    headers: vec![("content-type".to_owned(), reply.content_type.into_owned())],
                    body: reply.body.to_vec(),
                },
                Err(error) => failure(&error.status()),
            };
        }
        let mut stream = self.codec.reply_stream(&found.plan, None);
        let mut body = Vec::new();
        for message in &reply.messages {
            body.extend(stream.message(message).expect("the backend sends its reply type"));
        }
        match status {
            Some(status) if !stream.started() => return failure(&status),
            Some(status) => body.extend(stream.fail(&status)),
            None => body.extend(stream.finish()),
        }
        Answer { status: 200, headers: vec![("content-type".to_owned(), stream.content_type().to_owned())], body }
    }
}

fn json_answer(status: u16, body: Vec<u8>) -> Answer {
    Answer { status, headers: vec![("content-type".to_owned(), "application/json".to_owned())], body }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD_NO_PAD.encode(bytes)
}

/// Percent-encodes as gRPC does in `grpc-message`.
fn escape(message: &str) -> String {
    let plain = |it: u8| (0x20..=0x7E).contains(&it) && it != b'%';
    message.bytes().map(|it| if plain(it) { char::from(it).to_string() } else { format!("%{it:02X}") }).collect()
}
