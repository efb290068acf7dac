//! Anything that an authority sends costs a constant for each byte: every parser gets the worst input of its
//! grammar, and its work is compared with that for plain text of the same size.

use std::hint::black_box;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};

use super::clouds::Provider;
use super::discovery::Expected;
use super::http::HttpAnswer;
use super::id_token::UnverifiedToken;
use super::redirect::RedirectError;
use super::url::CheckedUrl;
use super::{body, token_answer, wire};
use crate::jwt::keys::KeySet;
use counted::Case;
use hostile::{Texts, again, json};

#[path = "../../tests/support/counted.rs"]
mod counted;
#[path = "../../tests/support/hostile.rs"]
mod hostile;

const SIZE: usize = 64 * 1024;

struct Reader {
    name: &'static str,
    texts: Vec<(&'static str, Vec<u8>)>,
    read: fn(&[u8]),
}

/// Returns every parser of data from an authority or, through a browser, in its name. Add a new one here.
fn readers() -> Vec<Reader> {
    let reader = |name, texts: Texts, read| {
        let texts = texts.into_iter().map(|(what, text)| (what, text.into_bytes())).collect();
        Reader { name, texts, read }
    };
    let token = |mut make: Box<dyn FnMut(&str) -> String>| -> Texts {
        let mut texts: Texts =
            json(SIZE, "sub", ("\"", "\"")).iter().map(|(what, text)| (*what, make(text))).collect();
        texts.push(("dots", again(SIZE, ".")));
        texts
    };
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = token(Box::new(move |text| format!("{}.{}.AA", part(r#"{"alg":"RS256"}"#), part(text))));
    let header = token(Box::new(move |text| format!("{}.{}.AA", part(text), part("{}"))));
    let words = |label: &str| format!("AADSTS1: {}", again(SIZE, label));
    let empty = body::packed(b"");
    vec![
        reader("a discovery document", json(SIZE, "issuer", ("\"", "\"")), |text| {
            let _ = black_box(expected().check(text));
        }),
        reader("a key set", json(SIZE, "keys", ("\"", "\"")), |text| {
            let _ = black_box(KeySet::parse(text));
        }),
        reader("a token answer", json(SIZE, "access_token", ("\"", "\"")), |text| {
            let _ = black_box(token_answer::read(&answer(text)));
        }),
        reader("a scope", json(SIZE, "scope", ("\"", "\"")), |text| {
            let _ = black_box(token_answer::read(&answer(text)));
        }),
        reader("a refusal", json(SIZE, "claims", ("\"", "\"")), |text| {
            let _ = black_box(wire::refusal(&answer(text)));
        }),
        reader("an id_token's claims", claims, |text| {
            let _ = black_box(UnverifiedToken::parse(as_text(text)));
        }),
        reader("an id_token's header", header, |text| {
            let _ = black_box(UnverifiedToken::parse(as_text(text)));
        }),
        reader(
            "a redirect's error",
            vec![
                ("plain", words("a")),
                ("labels", words("Trace ID: ")),
                ("beginnings of labels", words("Trace ID")),
                ("digits", format!("AADSTS{}", again(SIZE, "1"))),
            ],
            |text| {
                let _ = black_box(RedirectError::read("access_denied", None, Some(as_text(text))));
            },
        ),
        Reader {
            name: "gzip",
            texts: vec![
                ("plain", body::packed(again(SIZE, "a").as_bytes())),
                ("parts", empty.repeat(SIZE / 8 / empty.len())),
            ],
            read: |packed| {
                let mut headers = HeaderMap::new();
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                let _ = black_box(body::text_of(&headers, packed.to_vec().into(), SIZE));
            },
        },
    ]
}

fn as_text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

fn answer(body: &[u8]) -> HttpAnswer {
    HttpAnswer { status: 200, headers: HeaderMap::new(), body: body.to_vec().into() }
}

fn expected() -> Expected {
    Expected {
        authority: CheckedUrl::parse("https://issuer.example", false).expect("a URL"),
        provider: Provider::OpenId,
        provider_is_configured: true,
        tenant: None,
        endpoint_hosts: None,
    }
}

#[test]
fn the_worst_answer_takes_no_more_work_than_its_bytes() {
    let mut cases = Vec::new();
    for reader in readers() {
        for (what, text) in reader.texts {
            cases.push(Case { group: reader.name.to_owned(), what, size: text.len() });
        }
    }
    let worst = counted::hold("authority::linear_tests::every_answer_once", &cases);
    assert_eq!(worst.len(), readers().len());
}

#[test]
#[ignore = "the test above runs it under valgrind"]
fn every_answer_once() {
    for reader in readers() {
        for (_, text) in &reader.texts {
            counted::count(|| (reader.read)(text));
        }
    }
}
