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
//! A file holds one such document, or `policies:` with a list of them, `[[policies]]` in TOML; a YAML file may hold several of either,
//! separated by `---`.
#![forbid(unsafe_code)]

mod document;
mod files;
mod schema;
mod text;
mod tree;

pub use document::Document;
pub use files::{FileError, Written, load, read};
pub use text::{Format, UnknownFormat, Wrong, parse};
