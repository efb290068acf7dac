//! See `relay_answer` in `src/testkit/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tokenward::testkit::fuzzing::check("relay_answer", input));
