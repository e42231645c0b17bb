//! h2spec, a stranger's idea of RFC 9113 and RFC 7541, against the gateway's port.
//!
//! Lives here: running it and reading its report. Does not: the attacks that a specification does not know (`attacks`).

use std::{collections::BTreeMap, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};
use weft_testkit::outside;

use crate::support::start;

/// Cases that do not apply, with the reason.
const EXCLUDED: [(&str, &str); 1] = [(
    "Sends invalid connection preface",
    "on a port that serves HTTP/1.1, too, what is no preface is a bad request and is answered as one before the connection ends (RFC 9113, 3.4)",
)];
/// Fewer means that h2spec gave up half-way.
const CASES: usize = 140;

/// Runs at most. Some cases send frames behind a request and want the stream's error, while a fast answer may have closed the stream before they
/// arrive: such a case holds if it does in one of the runs.
const RUNS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn the_port_speaks_http2_as_h2spec_has_it() {
    let test = "the_port_speaks_http2_as_h2spec_has_it";
    let Some(h2spec) = outside::need(outside::h2spec(), test, "h2spec") else { return };
    let gateway = start().await;
    let mut failed = failures(&h2spec, gateway.addr).await;
    for _ in 1..RUNS {
        if failed.is_empty() {
            break;
        }
        let again = failures(&h2spec, gateway.addr).await;
        failed.retain(|case, _| again.contains_key(case));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// What does not hold and should, with what h2spec says of it, by package and title.
async fn failures(h2spec: &Path, at: SocketAddr) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.xml");
    let mut command = Command::new(h2spec);
    command.args(["--host", "127.0.0.1", "--port", &at.port().to_string(), "--path", "/echo"]);
    // Seconds that an answer may take: two by default, which a busy machine needs for itself.
    command.args(["--timeout", "10", "--strict", "--junit-report"]).arg(&report);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(Duration::from_secs(300), output).await.expect("h2spec ends").unwrap();
    let report = std::fs::read_to_string(&report)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let cases: Vec<&str> = report.split("<testcase ").skip(1).collect();
    assert!(cases.len() >= CASES, "only {} cases ran", cases.len());
    // A case that holds has nothing to say.
    let failed: Vec<&str> = cases.iter().filter(|it| !it.contains("></testcase>")).copied().collect();
    println!("h2spec: {} of {} cases hold", cases.len() - failed.len(), cases.len());
    let unexpected = failed.into_iter().filter(|it| !EXCLUDED.iter().any(|(case, _)| it.contains(case)));
    let named = unexpected.map(|it| it.split_once(" time=").expect("every case has its time"));
    named.map(|(name, said)| (name.to_owned(), said.to_owned())).collect()
}
