//! The bytes of replies.
//!
//! Lives here: the program. Does not: anything else (`lib.rs`).
#![no_main]

use weft_transcode_fuzz::Target;

libfuzzer_sys::fuzz_target!(init: Target::Wire.begin(), |input: &[u8]| Target::Wire.run(input));
