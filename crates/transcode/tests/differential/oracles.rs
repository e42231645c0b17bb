//! The two other codecs: prost-reflect in this process, Python's `json_format` in one of its own.
//!
//! Lives here: asking them. Does not: prost-reflect's own ways (`reflect`), comparing their answers with ours (`main`, `known`).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost_reflect::DynamicMessage;
use serde_json::{Value as Json, json};

use crate::dice::Dice;
use crate::known::How;
use crate::reflect;
use crate::schema::Generated;

pub(crate) type Answer<T> = Result<T, String>;

pub(crate) trait Oracle {
    fn name(&self) -> &'static str;
    /// Returns the schema of the next round.
    fn generate(&mut self, dice: &mut Dice) -> Generated {
        Generated::new(dice)
    }
    /// Returns how what comes back is to be what was sent.
    fn how(&self) -> How {
        How::Exactly
    }
    /// Takes the schema that everything up to the next call is about.
    fn learn(&mut self, generated: &Generated);
    fn read(&mut self, generated: &Generated, json: &str) -> Answer<DynamicMessage>;
    fn print(&mut self, generated: &Generated, wire: &[u8]) -> Answer<Json>;
    /// Prints what of a reply counts, if this oracle looks at the rest, too.
    fn print_what_counts(&mut self, _: &Generated, _: &[u8]) -> Option<Answer<Json>> {
        None
    }
    /// Returns whether these bytes are a message to this oracle alone.
    fn takes_alone(&self, _: &Generated, _: &[u8]) -> bool {
        false
    }
}

pub(crate) struct ProstReflect;

impl Oracle for ProstReflect {
    fn name(&self) -> &'static str {
        "prost-reflect"
    }

    fn learn(&mut self, _: &Generated) {}

    fn read(&mut self, generated: &Generated, json: &str) -> Answer<DynamicMessage> {
        reflect::read(&generated.root, json)
    }

    fn print(&mut self, generated: &Generated, wire: &[u8]) -> Answer<Json> {
        reflect::print(&generated.root, wire)
    }

    fn print_what_counts(&mut self, generated: &Generated, wire: &[u8]) -> Option<Answer<Json>> {
        Some(reflect::print_what_counts(&generated.root, wire))
    }

    fn takes_alone(&self, generated: &Generated, wire: &[u8]) -> bool {
        reflect::takes_alone(&generated.root, wire)
    }
}

pub(crate) struct Python {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Python {
    pub(crate) fn start(interpreter: &Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential/json_format.py");
        let mut child = Command::new(interpreter)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    /// Returns what protoc makes of a file, with what it imports.
    pub(crate) fn compile(&mut self, source: &str) -> Vec<u8> {
        let answer = self.ask(&json!({ "source": source })).unwrap_or_else(|error| panic!("{error}\n{source}"));
        BASE64_STANDARD.decode(answer["set"].as_str().expect("a set")).expect("base64")
    }

    fn ask(&mut self, question: &Json) -> Answer<Json> {
        writeln!(self.stdin, "{question}").expect("Python reads");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("Python answers");
        let answer: Json = serde_json::from_str(&line).expect("Python answers in JSON");
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Oracle for Python {
    fn name(&self) -> &'static str {
        "json_format"
    }

    fn learn(&mut self, generated: &Generated) {
        let set = BASE64_STANDARD.encode(&generated.set);
        self.ask(&json!({ "set": set })).unwrap_or_else(|error| panic!("{error}\n{}", generated.source));
    }

    fn read(&mut self, generated: &Generated, json: &str) -> Answer<DynamicMessage> {
        let answer = self.ask(&json!({ "json": json }))?;
        let wire = BASE64_STANDARD.decode(answer["wire"].as_str().expect("wire")).expect("base64");
        Ok(DynamicMessage::decode(generated.root.clone(), wire.as_slice()).expect("Python writes messages"))
    }

    fn print(&mut self, _: &Generated, wire: &[u8]) -> Answer<Json> {
        self.ask(&json!({ "wire": BASE64_STANDARD.encode(wire) })).map(|mut answer| answer["json"].take())
    }
}

/// Python, over schemas of edition 2023.
pub(crate) struct PythonOfEditions(pub(crate) Python);

impl Oracle for PythonOfEditions {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn generate(&mut self, dice: &mut Dice) -> Generated {
        Generated::of_an_edition(dice, |source| self.0.compile(source))
    }

    fn how(&self) -> How {
        How::WithoutDefaults
    }

    fn learn(&mut self, generated: &Generated) {
        self.0.learn(generated);
    }

    fn read(&mut self, generated: &Generated, json: &str) -> Answer<DynamicMessage> {
        self.0.read(generated, json)
    }

    fn print(&mut self, generated: &Generated, wire: &[u8]) -> Answer<Json> {
        self.0.print(generated, wire)
    }
}
