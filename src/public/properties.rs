//! Properties of all input from browsers.

use http::{HeaderMap, HeaderValue, header};

use super::callback::Parameters;
use super::cookie;
use crate::broker::sign_in::CallbackOutcome;
use crate::domain::id::AppName;

/// Panics if a query or a form is accepted that means something else when it is rewritten.
pub fn a_callback_is_read_in_one_way(input: &[u8]) {
    let app = AppName::parse("outlook").expect("a name");
    let none = |_: &str| None;
    let Ok(read) = Parameters::read(input) else { return };
    let read = read.callback(&app, "r1", &none);
    assert!((1..=512).contains(&read.state.len()) && !read.only_repeats);
    // A second parameter of a kind would give the answer two meanings.
    let seconds: &[&str] = match read.outcome {
        CallbackOutcome::AdminConsent { .. } => &["state=x"],
        _ => &["state=x", "code=x", "error=x"],
    };
    for second in seconds {
        let twice = [input, b"&", second.as_bytes()].concat();
        assert!(Parameters::read(&twice).is_err(), "{second}");
    }
    let mut written = form_urlencoded::Serializer::new(String::new());
    written.append_pair("state", &read.state);
    if let Some(iss) = &read.iss {
        written.append_pair("iss", iss);
    }
    match &read.outcome {
        CallbackOutcome::Code(code) => {
            let code = code.expose();
            assert!((1..=4096).contains(&code.len()) && code.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            written.append_pair("code", code);
        }
        CallbackOutcome::Error(error) => {
            let answer = error.answer();
            let tame = |word: &Option<String>| word.as_ref().is_none_or(|word| is_word(word));
            assert!(
                tame(&answer.error) && tame(&answer.trace_id) && tame(&answer.correlation_id),
                "{answer:?}"
            );
            return;
        }
        CallbackOutcome::AdminConsent { tenant } => {
            assert!(tenant.as_ref().is_none_or(|tenant| tenant.len() == 36), "{tenant:?}");
            written.append_pair("admin_consent", "True");
            written.extend_pairs(tenant.iter().map(|tenant| ("tenant", tenant)));
        }
    }
    let written = written.finish();
    let again =
        Parameters::read(written.as_bytes()).ok().expect("it was read before").callback(&app, "r1", &none);
    assert_eq!((&again.state, &again.iss), (&read.state, &read.iss), "{written}");
    let is_same = match (&read.outcome, &again.outcome) {
        (CallbackOutcome::Code(one), CallbackOutcome::Code(other)) => one == other,
        (CallbackOutcome::AdminConsent { tenant: one }, CallbackOutcome::AdminConsent { tenant: other }) => {
            one == other
        }
        _ => false,
    };
    assert!(is_same, "{written}");
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// Panics if a binding is found that is not the value of the only cookie of its name. Each line is one
/// `Cookie`.
pub fn a_binding_is_one_cookie_s_value(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::COOKIE, value);
        }
    }
    let _said = cookie::is_same_site(&headers, "https://tokens.contoso.com");
    for base in ["https://tokens.contoso.com", "http://localhost:8080"] {
        let before = cookie::binding(&headers, base, "session-1");
        if let Some(value) = &before {
            let stands = headers
                .get_all(header::COOKIE)
                .iter()
                .any(|line| line.to_str().is_ok_and(|line| line.contains(&format!("={value}"))));
            assert!(stands && cookie::any(&headers), "{value}");
        }
        let set = cookie::set(base, "session-1", "b1");
        let pair = set.to_str().expect("text").split(';').next().expect("a pair");
        let mut with_ours = headers.clone();
        with_ours.append(header::COOKIE, HeaderValue::from_str(pair).expect("a header"));
        assert!(cookie::any(&with_ours));
        let after = cookie::binding(&with_ours, base, "session-1");
        match (before, after.as_deref()) {
            // Of two cookies with the same name, one was planted.
            (Some(_), None) => {}
            (None, None | Some("b1")) => {}
            other => panic!("{other:?}"),
        }
    }
}
