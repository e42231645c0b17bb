//! weft-transcode before libFuzzer, which looks for bytes that reach new code and for bytes that break what has to hold.
//!
//! Lives here: each way in as one function, and inputs to begin with. Does not: what has to hold (`tests/fuzz/targets.rs`), the instrumentation and
//! the run (`cargo xtask fuzz`). `src/bin` holds a program for each way in.
#![forbid(unsafe_code)]

#[path = "../../tests/differential/dice.rs"]
mod dice;
#[path = "../../tests/fuzz/seeds.rs"]
mod seeds;
#[path = "../../tests/fuzz/sets.rs"]
mod sets;
#[path = "../../tests/fuzz/targets.rs"]
mod targets;

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use dice::Dice;
use seeds::Seeds;
use sets::Sets;
use targets::Subject;

/// How the first key of a descriptor set is written.
const FILE: u8 = 0x0A;

/// What the last panic said.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// A way in.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// The JSON of a request.
    Json,
    /// The bytes of a reply.
    Wire,
    /// Method, path, query and body.
    Request,
    /// The body of a client stream, in pieces.
    Stream,
    /// What a service registers: bytes, or changes to a set that a compiler made.
    Descriptors,
}

impl Target {
    /// Writes inputs to begin with into the folder that `--seeds=` names. libFuzzer passes over flags with two dashes.
    pub fn begin(self) {
        // In place of libfuzzer-sys's, which ends the process: prost-reflect panics at some descriptor sets, and the transcoder catches that.
        std::panic::set_hook(Box::new(|panic| {
            *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
        }));
        let Some(folder) = std::env::args().find_map(|it| it.strip_prefix("--seeds=").map(PathBuf::from)) else {
            return;
        };
        for (at, input) in self.seeds().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{at}")), input).expect("the folder can be written");
        }
    }

    fn seeds(self) -> Vec<Vec<u8>> {
        let seeds = Seeds::new(&root());
        match self {
            Self::Json => seeds.json(),
            Self::Wire => seeds.wire(subject()),
            Self::Request => seeds.requests(),
            Self::Stream => seeds.streams(),
            Self::Descriptors => sets().seeds().to_vec(),
        }
    }

    /// Tries one input; ends the process if something does not hold.
    pub fn run(self, input: &[u8]) {
        if catch_unwind(|| self.try_out(input)).is_err() {
            eprintln!("{}", LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner));
            std::process::abort();
        }
    }

    fn try_out(self, input: &[u8]) {
        match self {
            Self::Json => subject().json(input),
            Self::Wire => subject().wire(input),
            Self::Request => subject().request(input),
            Self::Stream => subject().stream(input),
            Self::Descriptors if input.first() == Some(&FILE) => targets::schema(input),
            Self::Descriptors => targets::schema(&sets().mutant(&mut Dice::from(input))),
        }
    }
}

fn subject() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| Subject::new(&root()))
}

fn sets() -> &'static Sets {
    static SETS: OnceLock<Sets> = OnceLock::new();
    SETS.get_or_init(|| Sets::new(&root()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}
