//! Bodies of client streams.
//!
//! Lives here: the program. Does not: anything else (`lib.rs`).
#![no_main]

use weft_transcode_fuzz::Target;

libfuzzer_sys::fuzz_target!(init: Target::Stream.begin(), |input: &[u8]| Target::Stream.run(input));
