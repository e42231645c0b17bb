//! Descriptor sets.
//!
//! Lives here: the program. Does not: anything else (`lib.rs`).
#![no_main]

use weft_transcode_fuzz::Target;

libfuzzer_sys::fuzz_target!(init: Target::Descriptors.begin(), |input: &[u8]| Target::Descriptors.run(input));
