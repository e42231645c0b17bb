//! The HTTP headers whose meaning transcoding fixes.
//!
//! Lives here: which request headers a backend sees as metadata. Does not: reading or writing headers.
//! Source: RFC 9110, 7.6.1 (hop-by-hop fields).

/// Returns whether a request header (its name in lower case) reaches the backend as metadata.
///
/// Left out are connection-level fields, those that describe the HTTP body or make the HTTP request conditional on what
/// a cache has (`if-match` is about the resource, so the service's), and those that gRPC or the gateway writes itself (`grpc-*`, `te`, `user-agent`, `x-forwarded-*` …).
pub fn is_forwarded(name: &str) -> bool {
    const OURS: [&str; 21] = [
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
    ];
    !OURS.contains(&name)
        && ![":", "grpc-", "connect-", "x-forwarded-", "if-none-", "if-modified-", "if-unmodified-", "if-range"]
            .iter()
            .any(|it| name.starts_with(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_unknown_headers_are_forwarded_and_framing_is_not() {
        for name in ["authorization", "cookie", "if-match", "x-request-id", "traceparent", "accept-language"] {
            assert!(is_forwarded(name), "{name}");
        }
        for name in [
            "host",
            "content-length",
            "transfer-encoding",
            "grpc-timeout",
            "te",
            ":path",
            "x-forwarded-for",
            "if-none-match",
        ] {
            assert!(!is_forwarded(name), "{name}");
        }
    }
}
