//! Properties of every text that becomes a name, a scope or an instant.

use super::id::{AppName, CallerName, ConnectionName, SessionId};
use super::proxy::Exception;
use super::scope::{LONGEST_SCOPE, ScopeNaming};
use super::time::Timestamp;

/// Panics if a text is accepted that its grammar forbids, or that changes when it is written and read again.
pub fn what_is_accepted_is_canonical(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let quoted = serde_json::to_string(&*text).expect("a text is JSON");
    let in_alphabet = |name: &str, more: &[u8]| {
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || more.contains(&byte))
    };
    // Names in documents obey the same grammar as typed ones.
    let app = AppName::parse(&text);
    assert_eq!(serde_json::from_str::<AppName>(&quoted).ok(), app.clone().ok());
    assert!(app.is_err() || (1..=63).contains(&text.len()) && in_alphabet(&text, b"-"), "{text}");
    let caller = CallerName::parse(&text);
    assert_eq!(serde_json::from_str::<CallerName>(&quoted).ok(), caller.clone().ok());
    assert_eq!(caller.is_ok(), app.is_ok());
    let stored = ConnectionName::stored(&text);
    assert_eq!(serde_json::from_str::<ConnectionName>(&quoted).ok(), stored.clone().ok());
    let session = SessionId::parse(&text);
    assert_eq!(serde_json::from_str::<SessionId>(&quoted).ok(), session.clone().ok());
    if let Ok(name) = ConnectionName::parse(&text) {
        assert_eq!((Ok(&name), name.as_str()), (stored.as_ref(), &*text));
        assert!(name.as_str().split('/').all(|part| !matches!(part, "" | "." | "..")), "{text}");
        assert!(
            !text.contains(['{', '}', '*', '%', '?', '#', '\\', ';', ' ']) && text.len() <= 256,
            "{text}"
        );
    }
    for naming in [ScopeNaming::Plain, ScopeNaming::Entra { graph: "https://graph.microsoft.com".to_owned() }]
    {
        if let Some(scope) = naming.scope(&text) {
            assert!(text.len() <= LONGEST_SCOPE && !text.contains([' ', '"', '\\']) && text.is_ascii());
            assert_eq!(scope.wire(), text);
            // A canonical form is its own canonical form, unless the Graph's prefix makes it too long for a
            // scope.
            let again = naming.scope(scope.canonical());
            let both = again.as_ref().map(|again| (again.canonical(), again.resource()));
            assert!(both.is_some() || scope.canonical().len() > LONGEST_SCOPE, "{text}");
            assert!(
                both.is_none_or(|both| both == (scope.canonical(), scope.resource())),
                "{text}: {both:?}"
            );
        }
        if let Ok(scopes) = naming.scopes(&text) {
            assert!(scopes.resources().len() <= text.split(' ').count() + 1);
        }
        let resource = naming.resource(&text);
        assert_eq!(naming.resource(&resource), resource, "{text}");
    }
    if let Some(at) = Timestamp::parse_rfc3339(&text) {
        let again = Timestamp::parse_rfc3339(&at.rfc3339()).expect("it is what we write");
        assert_eq!(again.unix_seconds(), at.unix_seconds(), "{text}");
    }
    assert_eq!(Exception::parse(&text), Exception::parse(text.trim()));
}
