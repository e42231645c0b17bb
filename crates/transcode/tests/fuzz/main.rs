//! Any bytes, near ones that mean something: mutated cases, mutated replies, mutated descriptor sets.
//!
//! Lives here: the seeds, the mutations, the rounds. `WEFT_SEED=N` replays one run; the seed is printed, and of a finding the bytes. Under
//! `cargo xtask soak` the rounds go on for as long as that says. Does not: what has to hold (`targets`), comparing with other codecs (`differential`).

#[expect(dead_code, reason = "the differential tests use the rest of it")]
#[path = "../differential/dice.rs"]
mod dice;
mod sets;
mod targets;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value as Json;
use weft_testkit::outside;
use weft_transcode::routes::PathVariables;
use weft_transcode::{Codec, RequestParts, Schema};

use dice::Dice;
use targets::Subject;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Requests of the conformance cases: method, path and body.
fn cases() -> Vec<(String, String, String)> {
    let mut requests = Vec::new();
    for file in ["transcoding.json", "more.json"] {
        let text = std::fs::read(root().join("tests/conformance/transcoding").join(file)).expect("the cases are there");
        let file: Json = serde_json::from_slice(&text).expect("they are JSON");
        for case in file["cases"].as_array().expect("a list") {
            let text = |name: &str| case["request"][name].as_str().unwrap_or_default().to_owned();
            requests.push((text("method"), text("path"), text("body")));
        }
    }
    requests
}

fn bodies(path: &str) -> Vec<Vec<u8>> {
    cases().into_iter().filter(|it| it.1.starts_with(path) && !it.2.is_empty()).map(|it| it.2.into_bytes()).collect()
}

#[test]
fn json_that_is_taken_comes_back_soak() {
    let subject = Subject::new(&root());
    run(4000, &bodies("/k/echo"), |input| subject.json(input));
}

#[test]
fn a_reply_that_prints_comes_back_soak() {
    let subject = Subject::new(&root());
    let echo = subject.echo();
    let codec = Codec::default();
    let variables = PathVariables::default();
    let parts = RequestParts { http_method: "POST", variables: &variables, query: None, content_type: None };
    let seeds = bodies("/k/echo").into_iter().filter_map(|body| codec.decode_request(echo, parts, &body).ok());
    let seeds: Vec<Vec<u8>> = seeds.map(|it| it.to_vec()).collect();
    run(4000, &seeds, |input| subject.wire(input));
}

#[test]
fn no_request_makes_binding_panic_soak() {
    let subject = Subject::new(&root());
    let seeds: Vec<Vec<u8>> =
        cases().into_iter().map(|(method, path, body)| format!("{method} {path}\n{body}").into_bytes()).collect();
    run(8000, &seeds, |input| subject.request(input));
}

#[test]
fn where_a_body_is_cut_changes_nothing_soak() {
    let subject = Subject::new(&root());
    let seeds: Vec<Vec<u8>> = bodies("/s/").into_iter().map(|body| [&[7], &body[..]].concat()).collect();
    run(4000, &seeds, |input| subject.stream(input));
}

#[test]
fn no_descriptor_set_makes_a_gateway_panic_soak() {
    let (sets, seed) = (sets::Sets::new(&root()), seed());
    println!("WEFT_SEED={seed}");
    let mut dice = Dice::new(seed);
    rounds(400, || {
        let set = sets.mutant(&mut dice);
        let _told = Told(&set);
        targets::schema(&set);
    });
    assert!(Schema::decode(sets.first()).is_ok(), "the seeds are sets");
}

/// Tries so many mutants of the seeds, or as many as a soak has time for.
fn run(usual: usize, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    let seed = seed();
    println!("WEFT_SEED={seed}, {} inputs to begin with", seeds.len());
    assert!(seeds.len() > 5, "the cases have some");
    seeds.iter().for_each(|it| target(it));
    let mut dice = Dice::new(seed);
    rounds(usual, || {
        let input = mutant(&mut dice, seeds);
        let _told = Told(&input);
        target(&input);
    });
}

fn rounds(usual: usize, mut round: impl FnMut()) {
    match outside::soak().map(|it| Instant::now() + it) {
        None => (0..usual).for_each(|_| round()),
        Some(deadline) => {
            while Instant::now() < deadline {
                round();
            }
        }
    }
}

fn seed() -> u64 {
    let asked = weft_runtime::Env::capture().get("WEFT_SEED").map(|text| text.parse().expect("a seed is a number"));
    let now = weft_runtime::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let today = outside::soak().map(|_| u64::try_from(now.as_micros()).unwrap_or_default());
    asked.or(today).unwrap_or(20_261_130)
}

/// Says which bytes it was, if a panic goes by.
struct Told<'a>(&'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the input, of {} bytes: {}", self.0.len(), self.0.escape_ascii());
        }
    }
}

/// Returns one of the inputs with a few changes.
fn mutant(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    const WORDS: [&str; 24] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\ud800",
        "null",
        "true",
        "-",
        "1e999",
        "0.",
        "\"@type\":",
        "\"value\":",
        "\"type.googleapis.com/google.protobuf.Any\"",
        "%",
        "%2F",
        "/",
        "?",
        "&",
        "=",
        ".",
    ];
    let mut input = dice.pick(seeds).clone();
    for _ in 0..1 + dice.below(4) {
        let at = dice.below(input.len() + 1);
        let end = (at + dice.below(16)).min(input.len());
        match dice.below(8) {
            0 => input.truncate(at),
            1 => input.insert(at, dice.next() as u8),
            2 if at < input.len() => input[at] ^= 1 << dice.below(8),
            3 => drop(input.drain(at..end)),
            4 => {
                let block = input[at..end].to_vec();
                input.splice(at..at, block);
            }
            5 | 6 => drop(input.splice(at..at, dice.pick(&WORDS).bytes()).count()),
            _ => {
                let other = dice.pick(seeds);
                let from = dice.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input
}
