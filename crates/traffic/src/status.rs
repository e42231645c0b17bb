//! gRPC status codes and how they look in HTTP.
//!
//! Lives here: the 17 codes, their names, their HTTP status, `grpc-message` escaping. Does not: which failure has which code (`error`).
//! Source: grpc/doc/statuscodes.md; the HTTP mapping is google/rpc/code.proto; the escaping is PROTOCOL-HTTP2.md, "Status-Message".

use http::{HeaderMap, HeaderValue, StatusCode};

/// A gRPC status code. An unknown number reads as `Unknown`, as the protocol wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the protocol's; statuscodes.md says when each is used")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// How many codes there are.
    pub const COUNT: usize = 17;

    /// Every code, by number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// Returns the code of a number on the wire; `Unknown` if there is none.
    pub fn from_number(number: u32) -> Self {
        usize::try_from(number).ok().and_then(|n| Self::ALL.get(n)).copied().unwrap_or(Self::Unknown)
    }

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Reads `grpc-status` of trailers, or of response headers in a trailers-only answer. None if there is none.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get("grpc-status")?;
        Some(value.to_str().ok().and_then(|v| v.trim().parse().ok()).map_or(Self::Unknown, Self::from_number))
    }

    /// The code an HTTP status stands for when a gRPC answer has no `grpc-status` (http-grpc-status-mapping.md).
    pub fn from_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// The HTTP status that stands for this code in REST answers (google/rpc/code.proto).
    pub const fn http_status(self) -> StatusCode {
        match self {
            Self::Ok => StatusCode::OK,
            Self::Cancelled => match StatusCode::from_u16(499) {
                Ok(status) => status,
                Err(_) => StatusCode::BAD_REQUEST,
            },
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => StatusCode::BAD_REQUEST,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::AlreadyExists | Self::Aborted => StatusCode::CONFLICT,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Unknown | Self::Internal | Self::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether it counts as an error at the server's end: what is not the caller's doing (OpenTelemetry's conventions for gRPC).
    pub const fn is_servers_fault(self) -> bool {
        matches!(
            self,
            Self::Unknown
                | Self::DeadlineExceeded
                | Self::Unimplemented
                | Self::Internal
                | Self::Unavailable
                | Self::DataLoss
        )
    }

    /// The protocol's name, `DEADLINE_EXCEEDED`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// Writes `grpc-status` and `grpc-message` into trailers or trailers-only headers.
    pub fn write(self, message: &str, headers: &mut HeaderMap) {
        headers.insert("grpc-status", HeaderValue::from(u16::from(self.number())));
        if !message.is_empty() {
            let escaped = HeaderValue::try_from(escape(message)).expect("escaping leaves printable ASCII only");
            headers.insert("grpc-message", escaped);
        }
    }
}

/// Percent-encodes what is not printable ASCII, and the percent sign.
fn escape(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_their_numbers() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(code.number()), number);
            assert_eq!(Code::from_number(u32::from(code.number())), code);
        }
        assert_eq!(Code::from_number(99), Code::Unknown);
    }

    #[test]
    fn a_message_survives_any_character() {
        let mut headers = HeaderMap::new();
        Code::NotFound.write("100 % weg: ä\n", &mut headers);
        assert_eq!(headers["grpc-message"], "100 %25 weg: %C3%A4%0A");
        assert_eq!(Code::from_headers(&headers), Some(Code::NotFound));
    }

    #[test]
    fn an_unreadable_status_is_unknown_and_none_is_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(Code::from_headers(&headers), None);
        headers.insert("grpc-status", HeaderValue::from_static("zero"));
        assert_eq!(Code::from_headers(&headers), Some(Code::Unknown));
    }

    #[test]
    fn cancelled_is_499() {
        assert_eq!(Code::Cancelled.http_status().as_u16(), 499);
    }
}
