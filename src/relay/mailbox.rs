//! Which mailbox a request is about.

use super::path::CanonicalPath;

/// The user whose token goes with a request.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The object id.
    pub oid: Option<&'a str>,
    /// The name of sign-in.
    pub username: Option<&'a str>,
    /// What names the account where there is no object id.
    pub sub: &'a str,
}

/// Returns the name of the mailbox that a path of Graph is about, in one spelling: the owner's own by its
/// object id, whichever way the path names it, another one as the path names it. `None` if it is about none
/// (`/$metadata`, `/users`).
///
/// A shared mailbox has an object id and addresses. Which of them are one mailbox is not known here, so each
/// name counts by itself.
pub fn mailbox(path: &CanonicalPath, owner: Owner<'_>) -> Option<String> {
    let own = || owner.oid.unwrap_or(owner.sub).to_ascii_lowercase();
    let mut segments = path.segments().skip(1);
    let first = segments.next()?;
    // (A key that has a name, or no quotes, stays with its collection.)
    let (collection, key) = match first.split_once('(').map(|(name, key)| (name, key_of(key))) {
        Some((name, key)) => (name, key),
        None => (first, segments.next()),
    };
    let is = |name: &str| collection.eq_ignore_ascii_case(name);
    match key.filter(|key| !key.starts_with('$') && !key.ends_with(')')) {
        _ if is("me") => Some(own()),
        Some(id) if is("users") => {
            let is_own =
                [owner.oid, owner.username].into_iter().flatten().any(|one| one.eq_ignore_ascii_case(id));
            Some(if is_own { own() } else { id.to_ascii_lowercase() })
        }
        Some(id) if is("groups") => Some(format!("group {}", id.to_ascii_lowercase())),
        _ => None,
    }
}

/// The key in `id='x')` and in `x)`; `None` of a call.
fn key_of(rest: &str) -> Option<&str> {
    let inner = rest.strip_suffix(')')?.trim_matches(' ');
    let value = inner.split_once('=').map_or(inner, |(_, value)| value.trim_matches(' '));
    let value = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).unwrap_or(value);
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_mailbox_in_one_spelling() {
        let owner = Owner { oid: Some("0A1B"), username: Some("Ann@contoso.com"), sub: "s" };
        for (path, expected) in [
            ("/v1.0/me/messages", Some("0a1b")),
            ("/beta/me", Some("0a1b")),
            ("/v1.0/users/0a1b/messages", Some("0a1b")),
            ("/v1.0/users('ann@CONTOSO.com')/messages", Some("0a1b")),
            ("/v1.0/users/Info@contoso.com/mailFolders", Some("info@contoso.com")),
            ("/v1.0/groups/7/conversations", Some("group 7")),
            ("/v1.0/me()/messages", Some("0a1b")),
            ("/v1.0/users(id='0A1B')/messages", Some("0a1b")),
            ("/v1.0/users(userPrincipalName='ann@contoso.com')/messages", Some("0a1b")),
            ("/v1.0/users(userPrincipalName='Info@contoso.com')/messages", Some("info@contoso.com")),
            ("/v1.0/users(0A1B)/messages", Some("0a1b")),
            ("/v1.0/USERS(id=%27x%27)", Some("x")),
            ("/v1.0/groups(id='7')/conversations", Some("group 7")),
            ("/v1.0/groups(7)/threads", Some("group 7")),
            ("/v1.0/users/delta()", None),
            ("/v1.0/users", None),
            ("/v1.0/users/$count", None),
            ("/v1.0/$metadata", None),
            ("/v1.0/subscriptions/1", None),
            ("/v1.0", None),
        ] {
            let path = CanonicalPath::parse(path).expect("a path");
            assert_eq!(mailbox(&path, owner).as_deref(), expected, "{path}");
        }
        let other = Owner { oid: None, username: None, sub: "S1" };
        let path = CanonicalPath::parse("/v1.0/me/messages").expect("a path");
        assert_eq!(mailbox(&path, other).as_deref(), Some("s1"));
    }
}
