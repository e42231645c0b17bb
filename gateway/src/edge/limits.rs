//! Limits of a route: how large and how slow its calls may be.
//!
//! Lives here: one policy compiled, what of a request's head is too large, how deep JSON is. Does not: reading bodies (`protocol`), counting what JSON has
//! (`weft-transcode`), rates (`edge::rate_limit`), what no connection lets in (`listener`).
//! Each has a status of its own, by RFC 9110 and 6585: 413, 414, 431, 408, 504; JSON that is too deep or has too much is a 400 that names the field.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{HeaderMap, StatusCode, Uri};
use tokio::time::Instant;
use weft_model::{Limits as Policy, PolicyName};
use weft_traffic::Code;
use weft_transcode::{BindError, Codec, Elements, Status};

use crate::edge::{
    guard::{By, Refusal},
    metrics::Refusals,
};

/// Policy and rule that refused what was read of a call's body; empty while none did.
pub(crate) type Noted = Arc<OnceLock<By>>;

/// The rules of how long a body may be, how long a call may take, and how long its body may be on the way.
const BODY: &str = "max-request-bytes";
/// The rule of how much JSON may have.
const ELEMENTS: &str = "max-elements";
const TIMEOUT: &str = "timeout";
const BODY_TIMEOUT: &str = "body-timeout";

/// What is told of a deadline that no word explains which the gateway itself reads: the rule is met where the call is routed.
pub(crate) const BY_ROUTE: &str = "deadline exceeded: the timeout of a rule of the service's route policy";

/// By how much the next hop, which has what is left, may find that a deadline has passed before we do.
const SOONER: Duration = Duration::from_millis(50);

/// One policy, ready to measure calls.
#[derive(Debug)]
pub(crate) struct Limits {
    policy: PolicyName,
    it: Policy,
    refusals: Refusals,
}

impl Limits {
    pub(crate) fn new(policy: &PolicyName, it: &Policy, refusals: &Refusals) -> Self {
        Self { policy: policy.clone(), it: it.clone(), refusals: refusals.clone() }
    }

    /// Refuses a head that is too large.
    pub(crate) fn check_head(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let length = uri.path_and_query().map_or(0, |it| it.as_str().len());
        if let Some(most) = below(self.it.max_uri_bytes, length) {
            let what = format!("path and query have {length} bytes, at most {most} are allowed");
            return Err(self.refusal("max-uri-bytes", StatusCode::URI_TOO_LONG, &what));
        }
        let Some(most) = self.it.max_header_bytes else { return Ok(()) };
        let length = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        match below(Some(most), length) {
            None => Ok(()),
            Some(most) => {
                let what = format!("the headers have {length} bytes, at most {most} are allowed");
                Err(self.refusal("max-header-bytes", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &what))
            }
        }
    }

    fn refusal(&self, rule: &'static str, http: StatusCode, what: &str) -> Refusal {
        self.refusals.of(&self.policy, rule).inc();
        Refusal::too_large(By { policy: self.policy.clone(), rule: rule.into() }, http, what)
    }

    /// The longest body or message, where the gateway's is `whole`. Where the policy's word counts, it is noted that something was longer.
    pub(crate) fn most(limits: Option<&Self>, whole: u64, noted: impl FnOnce() -> Noted) -> Most {
        match limits.and_then(|it| Some((it.it.max_request_bytes?, it))) {
            Some((bytes, it)) => Most { bytes: bytes.into(), ruled: Some(it.ruled(BODY, noted())) },
            None => Most { bytes: whole, ruled: None },
        }
    }

    /// The codec for a call's JSON, where others' is `codec`: the policy's word counts on members and elements.
    pub(crate) fn codec<'c>(limits: Option<&Self>, codec: &'c Codec, noted: impl FnOnce() -> Noted) -> Cow<'c, Codec> {
        let Some((most, it)) = limits.and_then(|it| Some((it.it.max_elements?, it))) else {
            return Cow::Borrowed(codec);
        };
        let ruled = it.ruled(ELEMENTS, noted());
        let whose = move || {
            ruled.refuses();
            ruled.to_string()
        };
        Cow::Owned(codec.clone().bounded(Elements::new(most, whose)))
    }

    fn ruled(&self, rule: &'static str, noted: Noted) -> Ruled {
        Ruled { policy: self.policy.clone(), rule, refusals: self.refusals.clone(), noted }
    }

    /// How long a call may take that would else have so long.
    pub(crate) fn timeout(limits: Option<&Self>, asked: Option<Duration>) -> Option<Duration> {
        let most = limits.and_then(|it| it.it.timeout);
        [asked, most].into_iter().flatten().min()
    }

    /// What a caller is told whose deadline passed after so long: how long it had, and by whose word. None: it was not by a word that is known here.
    pub(crate) fn late(
        limits: Option<&Self>,
        has: Has,
        took: Duration,
        noted: impl FnOnce() -> Noted,
    ) -> Option<String> {
        let policy = limits.and_then(|it| Some((it.it.timeout?, it)));
        let without = has.asked.or(has.usual);
        match (policy, without) {
            (Some((most, it)), without) if most <= took + SOONER && without.is_none_or(|without| most < without) => {
                it.refuse(TIMEOUT, &noted());
                Some(format!("deadline exceeded: {most:?}: policy {}, rule {TIMEOUT}", it.policy))
            }
            (_, Some(had)) if had <= took + SOONER => Some(match has.asked {
                Some(asked) => format!("deadline exceeded: {asked:?}, as the caller asked"),
                None => format!("deadline exceeded: {had:?}, the gateway's default_timeout"),
            }),
            _ => None,
        }
    }

    /// What a caller is told whose body was not there in time.
    pub(crate) fn body_late(&self, noted: &Noted) -> String {
        self.refuse(BODY_TIMEOUT, noted);
        let most = self.it.body_timeout.unwrap_or_default();
        let policy = &self.policy;
        format!("the request body took too long to arrive, longer than {most:?}: policy {policy}, rule {BODY_TIMEOUT}")
    }

    /// Counts a call that is refused after it was admitted, once.
    fn refuse(&self, rule: &'static str, noted: &Noted) {
        if noted.set(By { policy: self.policy.clone(), rule: rule.into() }).is_ok() {
            self.refusals.of(&self.policy, rule).inc();
        }
    }

    /// When the body has to be there of a request whose head was there at `received`.
    pub(crate) fn body_due(limits: Option<&Self>, received: Instant) -> Option<Instant> {
        limits.and_then(|it| it.it.body_timeout).and_then(|it| received.checked_add(it))
    }

    /// Where JSON is nested deeper than it may be: the path, and how many levels there may be.
    pub(crate) fn too_deep(&self, json: &[u8]) -> Option<(String, u32)> {
        let most = self.it.max_depth?;
        deeper(json, most).map(|at| (path(&json[..at]), most))
    }
}

/// How long a call may take, but for policies.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Has {
    /// What its caller asked for.
    pub(crate) asked: Option<Duration>,
    /// What it has if its caller does not say.
    pub(crate) usual: Option<Duration>,
}

impl Has {
    /// As its caller says, if it does.
    pub(crate) fn timeout(self) -> Option<Duration> {
        self.asked.or(self.usual)
    }
}

/// How long a body, or a message of it, may be, and whose word that is.
#[derive(Debug, Clone)]
pub(crate) struct Most {
    pub(crate) bytes: u64,
    /// None: the gateway's file, or its default.
    ruled: Option<Ruled>,
}

/// Whose rule it is, and where it is told that it refused a call.
#[derive(Debug, Clone)]
struct Ruled {
    policy: PolicyName,
    rule: &'static str,
    refusals: Refusals,
    noted: Noted,
}

impl Ruled {
    /// Counts the call once, however often something of it is too long.
    fn refuses(&self) {
        if self.noted.set(By { policy: self.policy.clone(), rule: self.rule.into() }).is_ok() {
            self.refusals.of(&self.policy, self.rule).inc();
        }
    }
}

impl fmt::Display for Ruled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {}, rule {}", self.policy, self.rule)
    }
}

impl Most {
    /// As a length in memory.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// Refuses the call for a body that is longer: the 413.
    pub(crate) fn too_large(&self) -> BindError {
        self.refuse();
        BindError { message: self.exceeded_by("the request body"), ..BindError::too_large(self.bytes) }
    }

    /// Refuses the call for something that is longer, by protocols that say so in a status of gRPC.
    pub(crate) fn too_long(&self, what: &str) -> Status {
        self.refuse();
        Status::new(Code::ResourceExhausted.number().into(), self.exceeded_by(what))
    }

    fn refuse(&self) {
        if let Some(ruled) = &self.ruled {
            ruled.refuses();
        }
    }

    /// Says of something that it is longer, and whose limit that is.
    fn exceeded_by(&self, what: &str) -> String {
        let bytes = self.bytes;
        match &self.ruled {
            Some(ruled) => format!("{what} is larger than {bytes} bytes: {ruled}"),
            None => format!("{what} is larger than {bytes} bytes, the gateway's max_request_bytes"),
        }
    }

    /// One that no policy sets.
    #[cfg(test)]
    pub(crate) const fn of_gateway(bytes: u64) -> Self {
        Self { bytes, ruled: None }
    }
}

/// The limit, if there is one and this is beyond it.
fn below(most: Option<u32>, length: usize) -> Option<u32> {
    most.filter(|most| u64::try_from(length).is_ok_and(|length| length > u64::from(*most)))
}

/// Where the first object or list begins that is deeper than so many levels. What is no JSON is told by who reads it.
fn deeper(json: &[u8], most: u32) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
    for (at, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' if depth == most => return Some(at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// What lies at the end of this JSON, by the names and places that lead there: `a.b[2]`.
fn path(json: &[u8]) -> String {
    enum Step {
        Key(String),
        Place(usize),
    }
    let (mut steps, mut last, mut at) = (Vec::new(), String::new(), 0);
    while at < json.len() {
        match json[at] {
            b'"' => {
                let end = end_of_text(json, at + 1);
                last = String::from_utf8_lossy(&json[at + 1..end]).into_owned();
                at = end;
            }
            b'{' => steps.push(Step::Key(String::new())),
            b'[' => steps.push(Step::Place(0)),
            b'}' | b']' => drop(steps.pop()),
            b':' => {
                if let Some(Step::Key(key)) = steps.last_mut() {
                    *key = std::mem::take(&mut last);
                }
            }
            b',' => {
                if let Some(Step::Place(place)) = steps.last_mut() {
                    *place += 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    let written = steps.iter().enumerate().map(|(at, step)| match step {
        Step::Key(key) if at == 0 => key.clone(),
        Step::Key(key) => format!(".{key}"),
        Step::Place(place) => format!("[{place}]"),
    });
    written.collect()
}

/// The quote that ends a text.
fn end_of_text(json: &[u8], mut at: usize) -> usize {
    while at < json.len() && json[at] != b'"' {
        at += if json[at] == b'\\' { 2 } else { 1 };
    }
    at.min(json.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_deep_is_named_by_its_path() {
        let deep = |json: &str, most| deeper(json.as_bytes(), most).map(|at| path(&json.as_bytes()[..at]));
        let json = r#"{"a": "{[\"", "b": {"c": [1, [2], {"d": []}]}}"#;
        assert_eq!(deep(json, 5), None);
        assert_eq!(deep(json, 4).as_deref(), Some("b.c[2].d"));
        assert_eq!(deep(json, 3).as_deref(), Some("b.c[1]"));
        assert_eq!(deep(json, 2).as_deref(), Some("b.c"));
        assert_eq!(deep("[[1],[[", 2).as_deref(), Some("[1][0]"));
        for strange in ["", "}}}}{", "\"", "{\"\\", "]]["] {
            assert_eq!(deep(strange, 1), None, "{strange}");
        }
    }

    #[test]
    fn what_is_too_long_is_told_with_whose_limit_it_is() {
        let refusals = Refusals::new(&weft_runtime::Metrics::default());
        let policy = Policy { max_request_bytes: Some(10), ..Policy::default() };
        let limits = Limits::new(&"small".parse().unwrap(), &policy, &refusals);
        let noted = Noted::default();
        let told = |limits| Limits::most(limits, 20, || Arc::clone(&noted)).too_large();
        assert_eq!((told(Some(&limits)).http_status, told(None).http_status), (413, 413));
        let small = "the request body is larger than 10 bytes: policy small, rule max-request-bytes";
        assert_eq!(told(Some(&limits)).message, small);
        let message = Limits::most(Some(&limits), 20, || Arc::clone(&noted)).too_long("a message");
        let small = "a message is larger than 10 bytes: policy small, rule max-request-bytes";
        assert_eq!((message.code, message.message.as_str()), (8, small));
        assert_eq!(refusals.of(&limits.policy, BODY).get(), 1, "a call is refused once");
        assert_eq!(noted.get().map(|by| &*by.rule), Some(BODY));
        assert_eq!(told(None).message, "the request body is larger than 20 bytes, the gateway's max_request_bytes");
    }

    #[test]
    fn what_took_too_long_is_told_with_whose_limit_struck() {
        let refusals = Refusals::new(&weft_runtime::Metrics::default());
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let policy = Policy { timeout: Some(second * 5), body_timeout: Some(second), ..Policy::default() };
        let limits = Limits::new(&"quick".parse().unwrap(), &policy, &refusals);
        let noted = Noted::default();
        let told = |limits, asked, took| {
            let late = Limits::late(limits, Has { asked, usual: Some(minute) }, took, || Arc::clone(&noted));
            late.unwrap_or_default()
        };
        assert_eq!(told(Some(&limits), Some(second), second), "deadline exceeded: 1s, as the caller asked");
        assert_eq!(told(None, None, minute), "deadline exceeded: 60s, the gateway's default_timeout");
        assert_eq!(told(Some(&limits), None, second), "", "none of these has passed");
        assert_eq!(Limits::late(None, Has::default(), second, Noted::default), None);
        assert_eq!(noted.get(), None, "no policy of limits has refused anything");
        let quick = "deadline exceeded: 5s: policy quick, rule timeout";
        assert_eq!(told(Some(&limits), Some(minute), second * 5), quick);
        assert_eq!(told(Some(&limits), None, second * 5 - SOONER), quick, "the next hop says so a little sooner");
        assert_eq!(refusals.of(&limits.policy, TIMEOUT).get(), 1, "a call is refused once");
        let body = limits.body_late(&Noted::default());
        assert_eq!(body, "the request body took too long to arrive, longer than 1s: policy quick, rule body-timeout");
        assert_eq!(refusals.of(&limits.policy, BODY_TIMEOUT).get(), 1);
    }

    #[test]
    fn a_head_is_measured_by_its_names_and_values() {
        let policy = Policy { max_header_bytes: Some(10), max_uri_bytes: Some(8), ..Policy::default() };
        let refusals = Refusals::new(&weft_runtime::Metrics::default());
        let limits = Limits::new(&"small".parse().unwrap(), &policy, &refusals);
        let head = |uri: &str, value: &str| {
            let headers = HeaderMap::from_iter([(http::header::TE, value.parse().unwrap())]);
            limits.check_head(&uri.parse().unwrap(), &headers).err().and_then(|it| it.http()).map(|it| it.as_u16())
        };
        assert_eq!(head("/1234?67", "12345678"), None);
        assert_eq!(head("http://authority.example/1234?67", ""), None, "the path counts, not whose it is");
        assert_eq!(head("/1234?678", ""), Some(414));
        assert_eq!(head("/", "123456789"), Some(431));
        let closed = Limits::new(&"later".parse().unwrap(), &Policy::closed(), &refusals);
        assert!(closed.check_head(&"/".parse().unwrap(), &HeaderMap::new()).is_err());
    }
}
