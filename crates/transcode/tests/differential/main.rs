//! The codec beside two others: prost-reflect and Python's `json_format`, over random schemas, messages and mistakes.
//!
//! Lives here: the rounds, and what must agree. `WEFT_SEED=N` replays one seed, `WEFT_SEEDS=N` tries so many; under
//! `cargo xtask soak` seeds begin with today's; the first is printed. Does not: the rules themselves
//! (unit tests beside the code, `tests/conformance/transcoding`).

mod counts;
mod dice;
mod known;
mod mutate;
mod oracles;
mod reflect;
mod schema;
mod values;

use std::time::Instant;

use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::Value as Json;
use weft_testkit::outside;
use weft_transcode::routes::PathVariables;
use weft_transcode::{Codec, MethodPlan, RequestParts};

use dice::Dice;
use known::{How, Side, is_known, same_json, same_message};
use oracles::{Answer, Oracle, ProstReflect, Python, PythonOfEditions};
use schema::Generated;

/// Messages of one schema; schemas are dear.
const MESSAGES: usize = 12;
/// Documents made of one message.
const MUTANTS: usize = 12;

#[test]
fn the_codec_agrees_with_prost_reflect_soak() {
    run(&mut ProstReflect, 40);
}

#[test]
fn the_codec_agrees_with_python_soak() {
    let test = "the_codec_agrees_with_python_soak";
    let Some(python) = outside::need(outside::python(), test, "Python's protobuf") else { return };
    run(&mut Python::start(&python), 12);
}

#[test]
fn the_codec_agrees_with_python_on_editions_soak() {
    let test = "the_codec_agrees_with_python_on_editions_soak";
    let Some(python) = outside::need(outside::python(), test, "Python's protobuf") else { return };
    run(&mut PythonOfEditions(Python::start(&python)), 8);
}

fn run(oracle: &mut dyn Oracle, usual: u64) {
    let env = weft_runtime::Env::capture();
    let asked = |name: &str| -> Option<u64> { env.get(name).map(|text| text.parse().expect("a seed is a number")) };
    let deadline = outside::soak().map(|it| Instant::now() + it);
    let (first, count) = match (asked("WEFT_SEED"), asked("WEFT_SEEDS"), deadline) {
        (Some(seed), _, _) => (seed, 1),
        (None, Some(count), _) => (0, count),
        (None, None, Some(_)) => (today(), u64::MAX),
        (None, None, None) => (0, usual),
    };
    println!("{}: seeds from {first}", oracle.name());
    let mut compared = 0;
    let mut differences = Vec::new();
    for seed in (0..count).map(|it| first.wrapping_add(it)) {
        compared += round(seed, oracle, &mut differences);
        if differences.len() > 99 || deadline.is_some_and(|it| Instant::now() > it) {
            break;
        }
    }
    println!("{}: {compared} answers compared", oracle.name());
    assert!(differences.is_empty(), "{} differences:\n\n{}", differences.len(), differences.join("\n\n"));
}

/// A seed that no run had before.
fn today() -> u64 {
    let now = weft_runtime::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default()
}

/// One side of the codec under test, for the only method of a generated schema.
struct Ours {
    codec: Codec,
    plan: std::sync::Arc<MethodPlan>,
}

impl Ours {
    fn read(&self, generated: &Generated, json: &str) -> Answer<DynamicMessage> {
        let variables = PathVariables::default();
        let parts = RequestParts { http_method: "POST", variables: &variables, query: None, content_type: None };
        let wire = self.codec.decode_request(&self.plan, parts, json.as_bytes()).map_err(|error| error.message)?;
        Ok(DynamicMessage::decode(generated.root.clone(), wire).expect("what we write is a message"))
    }

    fn print(&self, wire: &[u8]) -> Answer<String> {
        let reply = self.codec.encode_reply(&self.plan, wire).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(reply.body.into()).expect("what we print is UTF-8"))
    }
}

/// Compares all that one seed gives; returns how many answers that was.
fn round(seed: u64, oracle: &mut dyn Oracle, differences: &mut Vec<String>) -> usize {
    let mut dice = Dice::from(seed);
    let generated = oracle.generate(&mut dice);
    oracle.learn(&generated);
    let ours = Ours { codec: Codec::default(), plan: generated.schema.plans()[0].clone() };
    let mut compared = 0;
    let mut report = |what: &str, given: &str, ours: String, theirs: String| {
        differences.push(format!(
            "WEFT_SEED={seed} {what}\n  given  {given}\n  ours   {ours}\n  theirs {theirs}\n{}",
            generated.source
        ));
    };
    for _ in 0..MESSAGES {
        let message = values::message(&mut dice, &generated.root, 0);
        let mut plain = message.encode_to_vec();
        if dice.once_in(3) {
            plain.extend(values::message(&mut dice, &generated.root, 0).encode_to_vec()); // whose fields merge with the first one's
        }
        let wire = match dice.below(if oracle.name() == "json_format" { 2 } else { 3 }) {
            0 => plain,
            1 => values::scrambled(&mut dice, &generated.root, &plain),
            // Python takes a field of the wrong wire type for an unknown one; we refuse the reply, as prost does: its
            // sender has another schema than it registered.
            _ => values::broken(&mut dice, &plain),
        };
        compared += 1;
        let (printed, mut expected) = (ours.print(&wire), oracle.print(&generated, &wire));
        if printed.is_ok() && expected.is_err() {
            expected = oracle.print_what_counts(&generated, &wire).unwrap_or(expected);
        }
        let document = printed.as_ref().ok().map(|it| serde_json::from_str::<Json>(it).expect("what we print is JSON"));
        let agree = match (&printed, &expected) {
            (Ok(_), Ok(theirs)) => document.as_ref().is_some_and(|ours| same_json(ours, theirs)),
            (Err(_), Err(_)) => true,
            (Err(error), Ok(_)) => is_known(oracle.name(), Side::We, error) || oracle.takes_alone(&generated, &wire),
            (Ok(_), Err(error)) => is_known(oracle.name(), Side::They, error),
        };
        if !agree {
            report("printing", &hex(&wire), show(&printed), show(&expected));
        }
        let (Ok(printed), Some(document)) = (printed, document) else { continue };
        // What was printed reads back as what the bytes were; of an Any with bytes that are none of its type the oracle prints nothing.
        if expected.is_ok()
            && let Ok(sent) = DynamicMessage::decode(generated.root.clone(), wire.as_slice())
        {
            compared += 1;
            match ours.read(&generated, &printed) {
                Ok(read) if same_message(&read, &sent, oracle.how()) => {}
                read => report("coming back", &printed, show(&read), sent.to_string()),
            }
        }
        for turn in 0..MUTANTS {
            let text = if turn == 0 { printed.clone() } else { mutate::mutant(&mut dice, &document) };
            if text.trim().is_empty() {
                continue; // to HTTP that is a message without fields, to JSON it is nothing: the oracles have no word on it
            }
            compared += 1;
            let (read, expected) = (ours.read(&generated, &text), oracle.read(&generated, &text));
            let agree = match (&read, &expected) {
                (Ok(ours), Ok(theirs)) => {
                    same_message(ours, theirs, How::Nearly)
                        || (oracle.name() == "json_format" && same_message(ours, theirs, How::WithoutEnums))
                }
                (Err(_), Err(_)) => true,
                (Err(error), Ok(_)) => is_known(oracle.name(), Side::We, error),
                (Ok(_), Err(error)) => is_known(oracle.name(), Side::They, error),
            };
            if !agree {
                report("reading", &text, show(&read), show(&expected));
            }
        }
    }
    compared
}

fn show<T: std::fmt::Display>(answer: &Answer<T>) -> String {
    match answer {
        Ok(it) => it.to_string(),
        Err(error) => format!("refused: {error}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}
