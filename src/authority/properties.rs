//! What holds for every answer of a token endpoint, whatever its bytes: nothing panics, and no refresh token that can be read
//! is lost. A corpus, and what small changes make of it.

use http::header::HeaderMap;
use serde_json::Value;

use super::http::HttpAnswer;
use super::id_token::UnverifiedToken;
use super::testing::CountingRandom;
use super::token_answer;
use crate::domain::random::Random;
use crate::domain::secret::RefreshToken;

/// The refresh token as any reader of JSON would see it: none where there is none that could be sent again.
fn readable(body: &[u8]) -> Option<String> {
    let Ok(Value::Object(members)) = serde_json::from_slice(body) else { return None };
    let token = members.get("refresh_token")?.as_str()?;
    let fits =
        (1..=64 * 1024).contains(&token.len()) && token.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    fits.then(|| token.to_owned())
}

fn nothing_is_lost(body: &[u8]) {
    let answer = HttpAnswer { status: 200, headers: HeaderMap::new(), body: body.to_vec().into() };
    let kept = match token_answer::read(&answer) {
        Ok(success) => {
            assert!(success.expires_in.as_secs() >= 1 && success.expires_in.as_secs() <= 172_800);
            success.refresh_token
        }
        Err(unusable) => unusable.refresh_token,
    };
    if let Some(token) = readable(body) {
        let text = String::from_utf8_lossy(body);
        assert_eq!(kept.as_ref().map(RefreshToken::expose), Some(token.as_str()), "{text}");
    }
}

/// Small changes, the same ones in every run.
fn changed(text: &[u8], random: &CountingRandom, round: usize) -> Vec<u8> {
    const PIECES: [&[u8]; 12] = [
        b"null",
        b"\"\"",
        b"{}",
        b"[",
        b"1e400",
        b"-1",
        b"\\ud800",
        b"\xff",
        b"\"refresh_token\":\"R9\",",
        b",",
        b"}",
        b"\"",
    ];
    let mut bytes = text.to_vec();
    let mut draw = [0; 8];
    random.fill(&mut draw);
    let number = usize::from_le_bytes(draw).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ round;
    let at = number % (bytes.len() + 1);
    match round % 4 {
        0 => bytes.truncate(at),
        1 => drop(bytes.splice(at..at, PIECES[number / 7 % PIECES.len()].iter().copied())),
        2 => drop(bytes.splice(at..(at + number / 11 % 9).min(text.len()), [])),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (number / 13 % 8);
            }
        }
    }
    bytes
}

#[test]
fn no_answer_loses_a_refresh_token_that_can_be_read() {
    let cases: Value =
        serde_json::from_str(include_str!("../../tests/data/authority/successes.json")).expect("cases");
    let random = CountingRandom::default();
    let mut with_one = 0;
    for case in cases.as_array().expect("a list") {
        let body = case["body"].as_str().expect("a body").as_bytes();
        nothing_is_lost(body);
        with_one += usize::from(readable(body).is_some());
        // (Of the longest ones a few changes are enough.)
        for round in 0..if body.len() > 10_000 { 8 } else { 400 } {
            nothing_is_lost(&changed(body, &random, round));
        }
    }
    assert!(with_one >= 20, "{with_one}");
}

#[test]
fn no_id_token_makes_the_reader_panic() {
    let token = super::testing::jwt(
        &serde_json::json!({ "alg": "RS256", "kid": "k1", "typ": "JWT" }),
        &serde_json::json!({ "iss": "i", "sub": "s", "aud": ["a"], "exp": 1, "iat": 1.5, "nbf": null }),
    );
    let random = CountingRandom::default();
    for round in 0..4000 {
        let text = String::from_utf8_lossy(&changed(token.as_bytes(), &random, round)).into_owned();
        if let Ok(token) = UnverifiedToken::parse(&text) {
            let _odd = token.odd_claims().count();
        }
    }
}
