//! No `id_token` is judged as its claims do not say: a wrong "another's" would drop the refresh token beside it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    tokenward::authority::properties::an_id_token_is_judged_by_its_claims(input);
});
