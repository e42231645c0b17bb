//! Why a call got no answer from upstream, and what that means to the caller.
//!
//! Lives here: the one error of the stack, whose fault it is, whether it may be sent again, its gRPC code. Does not: answers that upstream gave (they
//! pass through, whatever their status), failures after response headers (`BodyError`, inside the body).

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use weft_model::ServiceName;

use crate::{Body, Code, Denied, pool::ConnectError};

/// Where a failure began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The caller's request is at fault, or the caller left.
    Downstream,
    /// An endpoint or the way to it.
    Upstream,
    /// This process decided so: no route, deadline, limits.
    Local,
}

/// Whether the caller may send the call again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Sending it again cannot help.
    Never,
    /// No endpoint's application has seen it.
    Safe,
    /// An application may have seen it; only a method that may run twice may be sent again.
    OnlyIfNotSent,
}

/// A call that got no response headers from upstream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No service of the mesh offers this gRPC service, and the authority names none.
    #[error("no service offers {path}")]
    NoRoute {
        /// The request's path.
        path: String,
    },
    /// The authority has the form of a service's name, but no such service is known (yet), or the mesh is not known yet.
    #[error("service {name} is not known")]
    UnknownService {
        /// What was asked for.
        name: String,
    },
    /// The service is known, but none of its endpoints takes calls, and none came while the call waited.
    #[error("no endpoint of {service} takes calls")]
    NoEndpoint {
        /// Service asked for.
        service: ServiceName,
    },
    /// The service is known, but its endpoints speak plaintext only, and this process, which has an identity, may not go there.
    #[error("{service} has plaintext endpoints only, and no policy of it says plaintext_upstream = allow")]
    PlaintextOnly {
        /// Service asked for.
        service: ServiceName,
    },
    /// An access policy of the guarded service refuses the call.
    #[error("{0}")]
    Denied(Box<Denied>),
    /// Which access policies the guarded service has is not known yet.
    #[error("the access rules of {service} are not known yet")]
    RulesUnknown {
        /// The guarded service.
        service: ServiceName,
    },
    /// `grpc-timeout` is malformed.
    #[error("malformed grpc-timeout {value:?}: expected one to eight digits and a unit of H, M, S, m, u or n")]
    Timeout {
        /// What was sent.
        value: String,
    },
    /// The deadline passed.
    #[error("deadline exceeded")]
    Deadline,
    /// The caller broke its body off.
    #[error("the caller left")]
    ClientLeft,
    /// As many calls are in flight as are allowed; the caller shall not add to that at once.
    #[error("{in_flight} calls are in flight already")]
    Overloaded {
        /// Calls in flight.
        in_flight: usize,
    },
    /// No connection could be opened to any endpoint tried.
    #[error("cannot connect to {service}")]
    Connect {
        /// Service asked for.
        service: ServiceName,
        /// The last failure.
        #[source]
        source: Arc<ConnectError>,
    },
    /// Every endpoint tried handed the call back unprocessed.
    #[error("{service} refused the call unprocessed")]
    Refused {
        /// Service asked for.
        service: ServiceName,
        /// The last failure.
        #[source]
        source: hyper::Error,
    },
    /// The connection or stream broke before response headers; an application may have seen the call.
    #[error("call to {service} broke off")]
    Broken {
        /// Service asked for.
        service: ServiceName,
        /// What broke.
        #[source]
        source: hyper::Error,
    },
}

impl Error {
    /// Where the failure began.
    pub fn origin(&self) -> Origin {
        match self {
            Self::NoRoute { .. } | Self::Timeout { .. } | Self::ClientLeft | Self::Denied(_) => Origin::Downstream,
            Self::UnknownService { .. }
            | Self::NoEndpoint { .. }
            | Self::PlaintextOnly { .. }
            | Self::RulesUnknown { .. }
            | Self::Deadline
            | Self::Overloaded { .. } => Origin::Local,
            Self::Connect { .. } | Self::Refused { .. } | Self::Broken { .. } => Origin::Upstream,
        }
    }

    /// Whether the call may be sent again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoRoute { .. }
            | Self::Timeout { .. }
            | Self::Deadline
            | Self::ClientLeft
            | Self::PlaintextOnly { .. }
            | Self::Denied(_)
            | Self::Overloaded { .. } => Retry::Never,
            Self::UnknownService { .. }
            | Self::NoEndpoint { .. }
            | Self::RulesUnknown { .. }
            | Self::Connect { .. }
            | Self::Refused { .. } => Retry::Safe,
            Self::Broken { .. } => Retry::OnlyIfNotSent,
        }
    }

    /// The gRPC status a caller sees. Its HTTP status is [`Code::http_status`], see [`Error::http_status`].
    pub fn grpc_code(&self) -> Code {
        match self {
            Self::NoRoute { .. } => Code::Unimplemented,
            Self::Timeout { .. } => Code::InvalidArgument,
            Self::Deadline => Code::DeadlineExceeded,
            Self::ClientLeft => Code::Cancelled,
            Self::Overloaded { .. } => Code::ResourceExhausted,
            Self::Denied(_) => Code::PermissionDenied,
            Self::UnknownService { .. }
            | Self::NoEndpoint { .. }
            | Self::PlaintextOnly { .. }
            | Self::RulesUnknown { .. }
            | Self::Connect { .. }
            | Self::Refused { .. } => Code::Unavailable,
            Self::Broken { source, .. } => code_of_break(source),
        }
    }

    /// The HTTP status a REST caller sees.
    pub fn http_status(&self) -> StatusCode {
        self.grpc_code().http_status()
    }

    /// Returns a trailers-only gRPC answer: HTTP 200 with `grpc-status` and `grpc-message`; 400 for a malformed timeout (PROTOCOL-HTTP2.md).
    /// [`Dialect::put`](crate::Dialect::put) makes of it what a caller reads that speaks something else.
    pub fn to_response(&self) -> Response<Body> {
        self.to_response_saying(&self.message())
    }

    /// As [`Error::to_response`], in other words.
    pub fn to_response_saying(&self, message: &str) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        if matches!(self, Self::Timeout { .. }) {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        self.grpc_code().write(message, headers);
        response
    }

    /// What the caller is told: the error, and of an endpoint that cannot be reached or does not answer also why, down to the rule that forbids it.
    pub fn message(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.fold(self.to_string(), |message, cause| format!("{message}: {cause}"))
    }

    /// What a caller from outside of the mesh is told: what failed, and of an endpoint that cannot be reached the kind of cause, or the rule that forbids it;
    /// no addresses and no identities, which are in [`Error::message`].
    pub fn message_outside(&self) -> String {
        let Self::Connect { source, .. } = self else { return self.to_string() };
        match (source.rule(), &**source) {
            (Some(rule), _) => format!("{self}: refused by rule {rule}"),
            (None, ConnectError::Io(error)) => format!("{self}: {}", error.kind()),
            (None, ConnectError::Transport { .. }) => format!("{self}: it wants a transport that is not supported"),
            (None, cause) => format!("{self}: {cause}"),
        }
    }

    /// Returns an error that makes hyper's server answer RST_STREAM with REFUSED_STREAM when a service returns it, so that callers of any make may send
    /// the call again. None if an application may have seen the call.
    pub fn refusal(&self) -> Option<Reset> {
        (self.retry() == Retry::Safe).then(|| Reset(h2::Reason::REFUSED_STREAM.into()))
    }
}

/// What a stream's end by the transport means (PROTOCOL-HTTP2.md, "Errors"): the reset's reason says; without a reset the connection is lost.
pub(crate) fn code_of_break(error: &hyper::Error) -> Code {
    let reset = h2_error(error).filter(|error| error.is_reset()).and_then(h2::Error::reason);
    match reset {
        None | Some(h2::Reason::REFUSED_STREAM) => Code::Unavailable,
        Some(h2::Reason::CANCEL) => Code::Cancelled,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        Some(_) => Code::Internal,
    }
}

/// The h2 error among an error's sources.
pub(crate) fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    std::iter::successors(std::error::Error::source(error), |error| error.source())
        .find_map(|error| error.downcast_ref())
}

/// An error whose only effect is an RST_STREAM: hyper's server looks for the [`h2::Error`] among its sources.
#[derive(Debug, thiserror::Error)]
#[error("stream reset")]
pub struct Reset(#[source] h2::Error);

impl From<h2::Reason> for Reset {
    fn from(reason: h2::Reason) -> Self {
        Self(reason.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_the_mesh_a_failure_names_the_rule_and_neither_addresses_nor_identities() {
        let service: ServiceName = "users".parse().unwrap();
        let expected = "spiffe://weft.local/ns/default/svc/users".parse().unwrap();
        let told = |source| {
            let error = Error::Connect { service: service.clone(), source: Arc::new(source) };
            (error.message_outside(), error.message())
        };
        let (outside, inside) = told(ConnectError::NoIdentity { expected });
        assert_eq!(outside, "cannot connect to users: refused by rule no_identity");
        assert!(inside.contains("spiffe://weft.local/ns/default/svc/users"), "{inside}");
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "by 10.0.0.7");
        let (outside, inside) = told(ConnectError::Io(refused));
        assert_eq!(outside, "cannot connect to users: connection refused");
        assert!(inside.ends_with("by 10.0.0.7"), "{inside}");
        let transport = weft_model::Transport::Tls { server_name: "db.within".to_owned() };
        let (outside, inside) = told(ConnectError::Transport { transport });
        assert_eq!(outside, "cannot connect to users: it wants a transport that is not supported");
        assert!(inside.contains("db.within"), "{inside}");
        assert_eq!(told(ConnectError::Timeout).0, "cannot connect to users: connect timed out");
    }

    #[test]
    fn each_failure_has_its_origin_retry_and_status() {
        let service: ServiceName = "users".parse().unwrap();
        let connect = || Arc::new(ConnectError::Timeout);
        let denied = Box::new(Denied {
            policy: "p".parse().unwrap(),
            rule: "r".parse().unwrap(),
            caller: weft_model::Caller::Anonymous,
            method: "a.B/C".into(),
        });
        let plaintext = Error::PlaintextOnly { service: service.clone() };
        let unknown = Error::RulesUnknown { service: service.clone() };
        let cases = [
            (Error::NoRoute { path: "/a.B/C".into() }, Origin::Downstream, Retry::Never, Code::Unimplemented, 501),
            (Error::UnknownService { name: "x".into() }, Origin::Local, Retry::Safe, Code::Unavailable, 503),
            (Error::NoEndpoint { service: service.clone() }, Origin::Local, Retry::Safe, Code::Unavailable, 503),
            (plaintext, Origin::Local, Retry::Never, Code::Unavailable, 503),
            (Error::Denied(denied), Origin::Downstream, Retry::Never, Code::PermissionDenied, 403),
            (unknown, Origin::Local, Retry::Safe, Code::Unavailable, 503),
            (Error::Timeout { value: "1".into() }, Origin::Downstream, Retry::Never, Code::InvalidArgument, 400),
            (Error::Deadline, Origin::Local, Retry::Never, Code::DeadlineExceeded, 504),
            (Error::ClientLeft, Origin::Downstream, Retry::Never, Code::Cancelled, 499),
            (Error::Overloaded { in_flight: 1 }, Origin::Local, Retry::Never, Code::ResourceExhausted, 429),
            (Error::Connect { service, source: connect() }, Origin::Upstream, Retry::Safe, Code::Unavailable, 503),
        ];
        for (error, origin, retry, code, http) in cases {
            assert_eq!((error.origin(), error.retry(), error.grpc_code()), (origin, retry, code), "{error}");
            assert_eq!(error.http_status().as_u16(), http, "{error}");
            let response = error.to_response();
            assert_eq!(Code::from_headers(response.headers()), Some(code), "{error}");
            assert_eq!(error.refusal().is_some(), retry == Retry::Safe, "{error}");
        }
    }
}
