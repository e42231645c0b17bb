//! Policies as people write them: documents in TOML, YAML or JSON, and back.
//!
//! Lives here: the one schema of policy documents, for `weft apply` and for whatever reads policies from a file; what is wrong, with line, field and
//! cure. Does not: what policies mean (`weft-model`), their wire (`weft-proto`), sending them anywhere.
//! ```yaml
//! name: users-callers            # the only one of the mesh
//! service: users                 # or users.<namespace>
//! access:                        # or  plaintext_upstream: allow
//!   rules:
//!     - name: readers            # default: rule-1, rule-2, …
//!       action: allow            # or deny; default allow
//!       from: { services: [posts, gateway], namespaces: [], identities: [], anonymous: false, authenticated: false }
//!       methods: [shop.users.v1.Users/GetUser]      # or pkg.Service/*; none: every method
//! ```
//! ```yaml
//! name: users-canary
//! service: users
//! route:                         # the first rule that matches decides
//!   rules:
//!     - name: canary             # default: rule-1, rule-2, …
//!       match: { methods: [shop.users.v1.Users/*], paths: [], headers: [{ name: x-canary, exact: yes }] }      # none: every call
//!       to: [{ service: users, weight: 90 }, { service: users-canary, weight: 10 }]                           # none: the service itself
//!       timeout: 2s              # none: as long as the caller says
//!       retry: { on: [unavailable], retries: 2, back_off: 25ms, max_back_off: 250ms }                         # none: as without a policy
//!       fault: { delay: { time: 1s, percent: 5 }, abort: { status: unavailable, percent: 0.1 } }              # for clients of xDS
//! ---
//! name: users-upstream
//! service: users
//! upstream:                      # for clients of xDS
//!   max_requests: 100
//!   outliers: { interval: 10s, base_ejection: 30s, max_ejection: 5m, max_ejection_percent: 10, failure_percentage: { threshold: 85 } }
//! ```
//! ```yaml
//! name: pages
//! service: users                 # or gateway: every service that has no such policy of its own
//! cors:                          # an edge kind: what gateways do with calls from outside
//!   methods: [shop.users.v1.Users/*]                                      # none: every method
//!   origins: ["https://app.example.com", "https://*.example.com"]         # or "*"
//!   http_methods: [GET, POST]    # none: any that the route has
//!   headers: [x-tenant]          # beyond those of the gateway's protocols; "*": any
//!   expose: [x-total]            # the same of answers
//!   credentials: true            # with the user's cookies
//!   max_age: 10m                 # how long a browser remembers
//! ---
//! name: callers
//! service: gateway
//! authentication:
//!   jwt: [{ issuer: "https://login.example.com", audiences: [shop], jwks_uri: "https://…", leeway: 30s }]     # jwks_uri: by discovery
//!   api_keys: true               # or  { header: x-api-key }
//!   certificates: false          # of clients, where the gateway's TLS asks for them
//!   anonymous: false
//!   to_metadata: [{ claim: sub, metadata: x-user }]
//!   forward_credentials: false
//!   rules: [{ name: admins, action: allow, claims: [{ claim: roles, any_of: [admin] }], methods: [shop.users.v1.Users/*] }]
//! ---
//! name: few
//! service: users
//! rate_limit:
//!   rules: [{ name: each, per: [client, address, method], calls: 100, every: 1m, burst: 20, methods: [shop.users.v1.Users/*] }]
//! ---
//! name: billing                  # what `weft keys create` writes
//! service: gateway
//! api_key: { sha256: 64 hexadecimal digits, claims: { plan: gold }, expires: "2027-01-31T12:00:00Z" }
//! ---
//! name: kept
//! service: users
//! cache: { methods: [shop.users.v1.Users/GetUser], ttl: 30s, per_caller: false, epoch: 1 }      # or { off: true }
//! ---
//! name: small
//! service: gateway
//! limits: { max_request_bytes: 65536, max_header_bytes: 8192, max_uri_bytes: 2048, max_depth: 20, max_elements: 10000, timeout: 5s, body_timeout: 2s }
//! ---
//! name: names
//! service: users
//! headers:
//!   request: [{ name: x-tenant-id, rename: tenant }, { name: cookie, remove: true }]
//!   response: [{ name: x-served-by, set: weft }]                          # or append
//! ---
//! name: paths
//! service: users
//! http:                          # in the place of what the protos say, or where they say nothing; as google.api.HttpRule
//!   rules:
//!     - selector: shop.users.v1.Users.GetUser
//!       get: /people/{id}        # or put, post, delete, patch, custom: { kind: HEAD, path: /people/{id} }
//!       response_body: name      # a field; none: the whole reply
//!       additional_bindings: [{ post: "/people:get", body: "*" }]
//! ---
//! name: as-lines
//! service: users
//! transcoding:                   # what is left out is as the gateway's file says
//!   methods: [shop.users.v1.Users/*]
//!   infer_update_mask: true
//!   stream_format: ndjson        # or json_array, sse
//!   json_output: { emit_defaults: true, preserve_proto_names: false, enums_as_ints: false }
//! ```
//! A file holds one such document, or `policies:` with a list of them, `[[policies]]` in TOML; a YAML file may hold several of either,
//! separated by `---`.
#![forbid(unsafe_code)]

mod document;
mod files;
mod schema;
mod text;
mod tree;
mod units;

pub use document::Document;
pub use files::{FileError, Written, load, read};
pub use text::{Format, UnknownFormat, Wrong, parse, parse_among, parse_http_among};
