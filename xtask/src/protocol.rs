//! What `cargo xtask test` and the tests say to each other: environment variables on the way in, lines of one file on the way out.
//!
//! The other end is `weft-testkit`, the only crate that reads these variables; a test asks testkit and never the environment.
//! Under plain `cargo test` none of them is set: testkit then looks for binaries beside the test's own, and what needs an outside
//! tool skips. Programs that `setup` installs need no variable: they are on the PATH.
//!
//! | variable | value |
//! | --- | --- |
//! | `WEFT_TEST_BIN` | directory of the workspace's binaries (`weft`, `users`, testkit's own), freshly built |
//! | `WEFT_TEST_CLIENTS` | directory of what `cargo xtask clients` makes: a folder for each language that could be made |
//! | `WEFT_TEST_PYTHON` | a Python interpreter with grpcio, grpcio-tools, grpcio-reflection, grpcio-health-checking, prometheus_client and dnspython |
//! | `WEFT_TEST_NODE` | a program beside `node_modules` with grpc-js, grpc-js-xds and what else `clients/node` names |
//! | `WEFT_TEST_GRPCURL` | the grpcurl program |
//! | `WEFT_TEST_H2SPEC` | the h2spec program |
//! | `WEFT_TEST_GO` | the go program; what `tests/e2e/xds/go` is made of is in its cache |
//! | `WEFT_TEST_JAVA_CLIENT` | directory of what `tests/e2e/xds/java` came to: `classes`, and `lib` with grpc-java |
//! | `WEFT_TEST_ENVOY` | Envoy |
//! | `WEFT_TEST_GRPC_GATEWAY` | the grpc-gateway of `bench/peers/grpc-gateway`; for measurements only |
//! | `WEFT_TEST_CONNECT_CONFORMANCE` | connectconformance, beside the suite's `referenceserver`; its protos are in `../proto` |
//! | `WEFT_TEST_GRPC_INTEROP` | the interop client of grpc-go, beside its server |
//! | `WEFT_TEST_PROMTOOL` | Prometheus' promtool |
//! | `WEFT_TEST_KUSTOMIZE` | the kustomize program |
//! | `WEFT_TEST_KUBERNETES_VALIDATE` | the kubernetes-validate program |
//! | `WEFT_TEST_OPENAPI` | a Python interpreter with openapi-spec-validator and schemathesis |
//! | `WEFT_TEST_CHROMIUM` | Chromium |
//! | `WEFT_TEST_POSTGRES` | directory of PostgreSQL's programs (`initdb`, `postgres`, `createdb`), version 15 or newer |
//! | `WEFT_TEST_SOAK` | seconds that a test with a long form shall go on; unset means its short form |
//! | `WEFT_TEST_SKIPS` | a file; a test that skips appends one line to it, in one write |
//!
//! A skip line is `TEST <tab> MISSING <tab> COMMAND`: the test's name, what it lacks, and the command that adds it. Places are absolute paths; a tool that could not be had is
//! unset, not empty.

use std::collections::BTreeSet;

/// Directory of the workspace's binaries.
pub(crate) const BIN: &str = "WEFT_TEST_BIN";
/// What `cargo xtask clients` makes.
pub(crate) const CLIENTS: &str = "WEFT_TEST_CLIENTS";
/// Python interpreter with the pinned gRPC packages.
pub(crate) const PYTHON: &str = "WEFT_TEST_PYTHON";
/// A program beside the packages of `clients/node`.
pub(crate) const NODE: &str = "WEFT_TEST_NODE";
/// The grpcurl program.
pub(crate) const GRPCURL: &str = "WEFT_TEST_GRPCURL";
pub(crate) const H2SPEC: &str = "WEFT_TEST_H2SPEC";
/// The go program.
pub(crate) const GO: &str = "WEFT_TEST_GO";
/// The built client of grpc-java.
pub(crate) const JAVA_CLIENT: &str = "WEFT_TEST_JAVA_CLIENT";
/// Envoy.
pub(crate) const ENVOY: &str = "WEFT_TEST_ENVOY";
/// A built grpc-gateway.
pub(crate) const GRPC_GATEWAY: &str = "WEFT_TEST_GRPC_GATEWAY";
/// The judge of connectrpc/conformance.
pub(crate) const CONNECT_CONFORMANCE: &str = "WEFT_TEST_CONNECT_CONFORMANCE";
/// The interop client of grpc-go.
pub(crate) const GRPC_INTEROP: &str = "WEFT_TEST_GRPC_INTEROP";
/// The promtool program.
pub(crate) const PROMTOOL: &str = "WEFT_TEST_PROMTOOL";
/// The kustomize program.
pub(crate) const KUSTOMIZE: &str = "WEFT_TEST_KUSTOMIZE";
/// The kubernetes-validate program.
pub(crate) const KUBERNETES_VALIDATE: &str = "WEFT_TEST_KUBERNETES_VALIDATE";
/// Python interpreter with judges of OpenAPI.
pub(crate) const OPENAPI: &str = "WEFT_TEST_OPENAPI";
/// Chromium.
pub(crate) const CHROMIUM: &str = "WEFT_TEST_CHROMIUM";
/// Directory of PostgreSQL's programs.
pub(crate) const POSTGRES: &str = "WEFT_TEST_POSTGRES";
/// Seconds of a long form.
pub(crate) const SOAK: &str = "WEFT_TEST_SOAK";
/// File to which skipping tests append.
pub(crate) const SKIPS: &str = "WEFT_TEST_SKIPS";

/// One test that did not do its work because something outside is missing.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skip {
    /// What the test lacks.
    pub(crate) missing: String,
    /// The command that adds it.
    pub(crate) command: String,
    /// The test's name, as cargo prints it.
    pub(crate) test: String,
}

/// Reads the skip file's text. A line in another form is kept as a skip without a command: a skip must never go unseen.
pub(crate) fn skips(text: &str) -> BTreeSet<Skip> {
    text.lines().filter(|line| !line.trim().is_empty()).map(skip).collect()
}

fn skip(line: &str) -> Skip {
    let mut fields = line.splitn(3, '\t').map(str::trim);
    let mut next = |otherwise: &str| fields.next().filter(|it| !it.is_empty()).unwrap_or(otherwise).to_owned();
    let test = next("(unnamed)");
    Skip { missing: next("(unnamed)"), command: next("(the test names no command)"), test }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip_of(test: &str, missing: &str, command: &str) -> Skip {
        Skip { missing: missing.into(), command: command.into(), test: test.into() }
    }

    #[test]
    fn skip_lines_are_read_once_each_and_grouped_by_what_is_missing() {
        let read =
            skips("b\tgrpcurl\tcargo xtask setup\na\tpython\tx\n\nb\tgrpcurl\tcargo xtask setup\na\tgrpcurl\ty\n");
        let read: Vec<_> = read.into_iter().collect();
        let wanted =
            [skip_of("b", "grpcurl", "cargo xtask setup"), skip_of("a", "grpcurl", "y"), skip_of("a", "python", "x")];
        assert_eq!(read, wanted);
    }

    #[test]
    fn a_malformed_skip_line_is_still_a_skip() {
        let read = skips("only a name\n");
        assert_eq!(read.into_iter().next(), Some(skip_of("only a name", "(unnamed)", "(the test names no command)")));
    }
}
