//! No answer of a token endpoint loses a refresh token that can be read.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| tokenward::authority::properties::no_refresh_token_is_lost(body));
