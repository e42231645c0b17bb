//! Method, path, query and body.
//!
//! Lives here: the program. Does not: anything else (`lib.rs`).
#![no_main]

use weft_transcode_fuzz::Target;

libfuzzer_sys::fuzz_target!(init: Target::Request.begin(), |input: &[u8]| Target::Request.run(input));
