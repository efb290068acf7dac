//! What a record says of a path: its words, and not the names of what was asked for.

use super::path::CanonicalPath;

/// Longest word of a path. Graph's longest are shorter; what is longer is an id.
const LONGEST_WORD: usize = 48;
/// Most bytes of a shape.
const LONGEST: usize = 256;

/// Collections in which a word may be a name that somebody gave.
const OF_NAMES: [&str; 4] = ["users", "groups", "messages", "events"];

/// Returns the shape of a path: `{id}` in the place of every segment that is no word, and no argument of a
/// call: `/v1.0/me/messages/{id}/attachments`, `/v1.0/me/drive/root/search(…)`.
pub fn shape(path: &CanonicalPath) -> String {
    let mut shape = String::new();
    // (Between `root:` and the next colon stands a path of names.)
    let (mut before, mut is_inside) = ("", false);
    for (at, segment) in path.segments().enumerate() {
        let is_named = is_inside || (OF_NAMES.contains(&before) && !segment.starts_with('$'));
        is_inside ^= segment.ends_with(':');
        before = segment;
        let part = match segment.split_once('(') {
            None if is_named => "{id}".to_owned(),
            Some((name, ")")) if is_word(name) => segment.to_owned(),
            Some((name, _)) if is_word(name) => format!("{name}(…)"),
            None if is_word(segment) || (at == 0 && is_version(segment)) => segment.to_owned(),
            _ => "{id}".to_owned(),
        };
        if shape.len() + part.len() + 1 > LONGEST {
            shape.push_str("/…");
            break;
        }
        shape.push('/');
        shape.push_str(&part);
    }
    shape
}

fn is_word(text: &str) -> bool {
    (1..=LONGEST_WORD).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphabetic() || b"$._".contains(&byte))
}

fn is_version(text: &str) -> bool {
    text.strip_prefix('v').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_was_asked_for_are_left_out() {
        for (raw, expected) in [
            ("/v1.0/me/messages", "/v1.0/me/messages"),
            ("/beta/me/messages/AAMkAGI2=/$value", "/beta/me/messages/{id}/$value"),
            ("/v1.0/users('bob@contoso.example')/mailFolders/inbox", "/v1.0/users/{id}/mailFolders/inbox"),
            ("/v1.0/me/drive/root/search(q='salary')", "/v1.0/me/drive/root/search(…)"),
            ("/v1.0/me/messages/delta()", "/v1.0/me/messages/delta()"),
            ("/v1.0/me/drive/root:/Gehalt%20Meier.xlsx:/content", "/v1.0/me/drive/{id}/{id}/content"),
            ("/v1.0/me/messages/v1.0", "/v1.0/me/messages/{id}"),
            ("/v1.0/users/anna.meier/messages/Gehalt/$value", "/v1.0/users/{id}/messages/{id}/$value"),
            ("/v1.0/users/$count", "/v1.0/users/$count"),
            ("/v1.0/me/drive/root:/Kuendigungen/Anna:/content", "/v1.0/me/drive/{id}/{id}/{id}/content"),
        ] {
            assert_eq!(shape(&CanonicalPath::parse(raw).expect("a path")), expected, "{raw}");
        }
        let long = format!("/v1.0{}", "/abcdefghij".repeat(40));
        assert!(shape(&CanonicalPath::parse(&long).expect("a path")).len() <= LONGEST + 4);
    }
}
