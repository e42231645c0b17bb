//! Any bytes, near ones that mean something: mutated cases, mutated replies, mutated descriptor sets.
//!
//! Lives here: the mutations, the rounds. `WEFT_SEED=N` replays one run; the seed is printed, and of a finding the bytes. Under
//! `cargo xtask soak` the rounds go on for as long as that says. Does not: inputs to begin with (`seeds`, `sets`), what
//! has to hold (`targets`), schemas made up (`differential`). `cargo xtask fuzz` lets libFuzzer at the same targets.

#[path = "../differential/dice.rs"]
mod dice;
mod seeds;
mod sets;
mod targets;

use std::path::{Path, PathBuf};
use std::time::Instant;

use weft_testkit::outside;
use weft_transcode::Schema;

use dice::Dice;
use seeds::Seeds;
use targets::Subject;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn json_that_is_taken_comes_back_soak() {
    let subject = Subject::new(&root());
    run(4000, &Seeds::new(&root()).json(), |input| subject.json(input));
}

#[test]
fn a_reply_that_prints_comes_back_soak() {
    let subject = Subject::new(&root());
    run(4000, &Seeds::new(&root()).wire(&subject), |input| subject.wire(input));
}

#[test]
fn no_request_makes_binding_panic_soak() {
    let subject = Subject::new(&root());
    run(8000, &Seeds::new(&root()).requests(), |input| subject.request(input));
}

#[test]
fn where_a_body_is_cut_changes_nothing_soak() {
    let subject = Subject::new(&root());
    run(4000, &Seeds::new(&root()).streams(), |input| subject.stream(input));
}

#[test]
fn no_descriptor_set_makes_a_gateway_panic_soak() {
    let (sets, seed) = (sets::Sets::new(&root()), seed());
    println!("WEFT_SEED={seed}");
    let mut dice = Dice::from(seed);
    rounds(400, || {
        let set = sets.mutant(&mut dice);
        let _told = Told(&set);
        targets::schema(&set);
    });
    assert!(sets.seeds().iter().all(|it| Schema::decode(it).is_ok()), "the seeds are sets");
}

#[test]
fn what_the_fuzzer_found_once_holds() {
    let subject = Subject::new(&root());
    subject.json(format!("{{\"nope\":{}{}}}", "[".repeat(200), "]".repeat(200)).as_bytes());
    subject.json(format!("{{\"value\":{}{}}}", "[".repeat(85), "]".repeat(85)).as_bytes());
    subject.json(br#"{"any":{"@type":"type.googleapis.com/.transcode.v1.Leaf"}}"#);
    let replies: [&[u8]; 14] = [
        b"\x5d\x00\x00\xc0\x7f\xa2\x02\x05\x0d\x00\x00\x80\x7f", // NaN, and infinity in a wrapper
        b"\x92\x03\x0f\x0a\x09a.b/c.d.E\x12\x02\x08\x01",        // an Any of a type that nobody knows
        b"\xeb\x01\x05\x08\x01\x12\x01t",                        // an entry of a map behind the key of a group
        b"\x72\x02a\xe7\x72\x02ab",                              // what is no text, and text in its place
        b"\x82\x03\x11\x32\x02\x4d\x00\x32\x0b\x0a\x09\x11\x00\x00\x00\x00\x00\x00\xf0\x3f", // a list cut off, and another in its place
        b"\xd2\x03\x04\x12\x02\x19\x00\xd2\x03\x04\x12\x02\x08\x00", // an entry cut off, and another of its key
        b"\xc8\x03\x02",                                             // a NullValue that is no 0
        b"\xa2\x02\x05\x0d\x00\x00\x00\x80",                         // -0.0 in a wrapper
        b"\x5d\x00\x00\x00\x80",                                     // -0.0
        b"\xf2\x02\x05\x0a\x00\x0a\x01a", // a FieldMask that begins with a path of no letters
        // an Any of Struct with an entry behind the key of a group; an Any of Empty; a string that is no text in an Any, and text in its place
        b"\x92\x03\x32\x0a\x2atype.googleapis.com/google.protobuf.Struct\x12\x04\x0b\x02\x0a\x00",
        b"\x92\x03\x28\x0a\x26type.googleapis.com/.transcode.v1.Leaf", // an Any of a type with a dot before its name
        b"\x92\x03\x2b\x0a\x29type.googleapis.com/google.protobuf.Empty",
        b"\x92\x03\x30\x0a\x26type.googleapis.com/transcode.v1.Kinds\x12\x06\x72\x01\xff\x72\x01a",
    ];
    for reply in replies {
        subject.wire(reply);
    }
}

/// Tries so many mutants of the seeds, or as many as a soak has time for.
fn run(usual: usize, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    let seed = seed();
    println!("WEFT_SEED={seed}, {} inputs to begin with", seeds.len());
    assert!(seeds.len() > 5, "the cases have some");
    seeds.iter().for_each(|it| target(it));
    let mut dice = Dice::from(seed);
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
