//! One entry of a rule's `relay`: `"GET graph:/v1.0/me/messages*"`.

use std::fmt;

use super::asked::Method;
use super::path::{CanonicalPath, PathFault, cast_named_at};

/// One thing that a caller may have relayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayRule {
    method: Method,
    base: String,
    /// The path, or what it begins with.
    path: String,
    is_prefix: bool,
}

/// What is wrong with a rule. The text continues a sentence that begins with the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleFault {
    /// It has another form.
    #[error("must be a method, a base and a path, such as \"GET graph:/v1.0/me/messages*\"")]
    Form,
    /// The method is none that is relayed.
    #[error("must begin with one of {}, in capitals", Method::WORDS.join(", "))]
    Method,
    /// `*` in another place than at the end.
    #[error("may have a `*` at its end only, where it stands for any rest")]
    StarInside,
    /// A path with an escape: rules are written as the path is once decoded.
    #[error("is written decoded: put the character in the place of its escape")]
    Escaped,
    /// A path with a key in parentheses, which would match nothing.
    #[error("writes a key as a segment: {0}")]
    Key(String),
    /// A path that no request can have.
    #[error("has a path that no request can have: it {0}")]
    Path(#[from] PathFault),
}

impl RelayRule {
    /// Reads a rule.
    ///
    /// # Errors
    /// What is wrong with it, and how it is written.
    pub fn parse(text: &str) -> Result<Self, RuleFault> {
        let (method, rest) = text.split_once(' ').ok_or(RuleFault::Form)?;
        let method = Method::parse(method).ok_or(RuleFault::Method)?;
        let (base, path) = rest.split_once(':').ok_or(RuleFault::Form)?;
        if !is_base_name(base) || !path.starts_with('/') || path.starts_with("//") {
            return Err(RuleFault::Form);
        }
        let (path, is_prefix) = match path.split_once('*') {
            None => (path, false),
            Some((path, "")) => (path, true),
            Some(_) => return Err(RuleFault::StarInside),
        };
        if path.contains('%') {
            return Err(RuleFault::Escaped);
        }
        // Where the rest is any, the last segment may be a part of one, and is not judged.
        let whole = match path.rsplit_once('/') {
            Some((whole, _)) if is_prefix => whole,
            _ => path,
        };
        if !whole.is_empty() {
            let encoded: String = whole.split('/').map(escaped).collect::<Vec<_>>().join("/");
            let canonical = CanonicalPath::parse(&encoded)?;
            if canonical.as_str() != whole {
                return Err(RuleFault::Key(canonical.as_str().to_owned()));
            }
        }
        Ok(RelayRule { method, base: base.to_owned(), path: path.to_owned(), is_prefix })
    }

    /// Returns the name of its base.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns true if it covers a request: the same method and base, and the same path, or one that begins
    /// so. A cast in the path must stand in the rule itself, with its namespace at least.
    pub fn covers(&self, method: Method, base: &str, path: &CanonicalPath) -> bool {
        let is_path = match self.is_prefix {
            false => path.as_str() == self.path,
            true => path.as_str().starts_with(&self.path) && path.cast_named_at() <= self.path.len(),
        };
        self.method == method && self.base == base && is_path
    }

    /// Returns true if it covers every request that another rule covers. (Of what the other covers, each path
    /// begins with the other's and has no cast that is named behind it. So it has the other's casts.)
    pub fn includes(&self, other: &RelayRule) -> bool {
        let is_path = match self.is_prefix {
            false => !other.is_prefix && other.path == self.path,
            true => other.path.starts_with(&self.path) && cast_named_at(&other.path) <= self.path.len(),
        };
        self.method == other.method && self.base == other.base && is_path
    }
}

impl fmt::Display for RelayRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_prefix { "*" } else { "" };
        write!(f, "{} {}:{}{star}", self.method, self.base, self.path)
    }
}

/// Whether a text can be a base's name.
fn is_base_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(is_plain)
}

/// A segment that is written decoded, with escapes for what a request must escape.
fn escaped(segment: &str) -> String {
    let mut text = String::new();
    for byte in segment.bytes() {
        super::path::push_encoded(&mut text, byte, |byte| byte.is_ascii_graphic());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(rule: &str, asked: &str) -> bool {
        let rule = RelayRule::parse(rule).expect(rule);
        let (method, rest) = asked.split_once(' ').expect("a method");
        let (base, path) = rest.split_once(':').expect("a base");
        let path = CanonicalPath::parse(path).expect(asked);
        rule.covers(Method::parse(method).expect("a method"), base, &path)
    }

    #[test]
    fn a_rule_covers_what_it_names() {
        for (rule, asked, is_covered) in [
            ("GET graph:/v1.0/me/messages", "GET graph:/v1.0/me/messages", true),
            ("GET graph:/v1.0/me/messages", "GET graph:/v1.0/me/messages/1", false),
            ("GET graph:/v1.0/me/messages", "POST graph:/v1.0/me/messages", false),
            ("GET graph:/v1.0/me/messages", "HEAD graph:/v1.0/me/messages", false),
            ("GET graph:/v1.0/me/messages", "GET other:/v1.0/me/messages", false),
            ("GET graph:/v1.0/me/messages", "GET graph:/beta/me/messages", false),
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/messages", true),
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/messages/1/attachments", true),
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/messages('1')", true),
            // The rest is any: a slash before the star keeps it below.
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/messagesX", true),
            ("GET graph:/v1.0/me/messages/*", "GET graph:/v1.0/me/messagesX", false),
            ("GET graph:/v1.0/me/messages/*", "GET graph:/v1.0/me/messages", false),
            ("GET graph:/*", "GET graph:/v1.0/me", true),
            // Case counts, though Graph ignores it.
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/Messages", false),
            ("GET graph:/v1.0/me/messages*", "GET graph:/V1.0/me/messages", false),
            // One user has several names, and a rule covers the one that it names.
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/users/4711/messages", false),
            ("GET graph:/v1.0/users/4711/messages", "GET graph:/v1.0/users('4711')/messages", true),
            ("GET graph:/v1.0/users/4711/messages", "GET graph:/v1.0/users(id='4711')/messages", false),
            // A cast leads to other types: it must be named.
            (
                "GET graph:/v1.0/me/messages*",
                "GET graph:/v1.0/me/messages/1/microsoft.graph.eventMessage/event",
                false,
            ),
            (
                "GET graph:/v1.0/me/messages*",
                "GET graph:/v1.0/me/messages/1/Microsoft.Graph.eventMessage/event",
                false,
            ),
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/messages/1/graph.eventMessage/event", false),
            (
                "GET graph:/v1.0/me/messages/microsoft.graph.delta()*",
                "GET graph:/v1.0/me/messages/microsoft.graph.delta()",
                true,
            ),
            (
                "GET graph:/v1.0/groups/1/members/microsoft.graph.*",
                "GET graph:/v1.0/groups/1/members/microsoft.graph.user",
                true,
            ),
            (
                "GET graph:/v1.0/groups/1/members/micro*",
                "GET graph:/v1.0/groups/1/members/microsoft.graph.user",
                false,
            ),
            (
                "GET graph:/v1.0/a/microsoft.graph.b*",
                "GET graph:/v1.0/a/microsoft.graph.b/c/microsoft.graph.d",
                false,
            ),
            ("POST graph:/v1.0/$batch", "POST graph:/v1.0/%24batch", true),
            (
                "GET graph:/v1.0/me/drive/root:/Übersicht*",
                "GET graph:/v1.0/me/drive/root:/%C3%9Cbersicht.docx:",
                true,
            ),
        ] {
            assert_eq!(covers(rule, asked), is_covered, "{rule} | {asked}");
        }
    }

    #[test]
    fn a_rule_includes_what_covers_no_more() {
        for (rule, other, is_included) in [
            ("GET graph:/v1.0/me/messages", "GET graph:/v1.0/me/messages", true),
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/messages", true),
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/messages*", true),
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/messages/*", true),
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/messages/1/attachments", true),
            ("GET graph:/*", "GET graph:/v1.0/me/messages*", true),
            ("GET graph:/v1.0/me/messages", "GET graph:/v1.0/me/messages*", false),
            ("GET graph:/v1.0/me/messages/*", "GET graph:/v1.0/me/messages*", false),
            ("GET graph:/v1.0/me/messages/*", "GET graph:/v1.0/me/messages", false),
            ("GET graph:/v1.0/me/messages*", "GET graph:/v1.0/me/message*", false),
            ("GET graph:/v1.0/me/messages*", "GET graph:/*", false),
            ("GET graph:/*", "HEAD graph:/v1.0/me", false),
            ("GET graph:/*", "GET other:/v1.0/me", false),
            ("GET graph:/v1.0/*", "GET graph:/beta/me", false),
            // A cast is covered where it is named.
            ("GET graph:/v1.0/groups/*", "GET graph:/v1.0/groups/1/members/microsoft.graph.user", false),
            ("GET graph:/v1.0/groups/*", "GET graph:/v1.0/groups/1/members/microsoft.graph.user*", false),
            ("GET graph:/v1.0/groups/*", "GET graph:/v1.0/groups/1/members/Graph.*", false),
            ("GET graph:/v1.0/groups/*", "GET graph:/v1.0/groups/1/members/micro*", true),
            ("GET graph:/v1.0/m/microsoft.*", "GET graph:/v1.0/m/microsoft.graph.user/x*", true),
            ("GET graph:/v1.0/m/microsoft.graph.user*", "GET graph:/v1.0/m/microsoft.*", false),
            ("GET graph:/v1.0/m/graph.a*", "GET graph:/v1.0/m/graph.a/b/graph.c", false),
        ] {
            let [one, two] = [rule, other].map(|text| RelayRule::parse(text).expect(text));
            assert_eq!(one.includes(&two), is_included, "{rule} | {other}");
        }
    }

    #[test]
    fn a_rule_is_read_and_shown_again() {
        for text in [
            "GET graph:/v1.0/me/messages*",
            "POST graph:/v1.0/$batch",
            "DELETE my-api:/*",
            "GET graph:/v1.0/me/messages/",
        ] {
            let read = RelayRule::parse(text).map(|rule| rule.to_string());
            match text.ends_with('/') {
                false => assert_eq!(read.as_deref(), Ok(text)),
                true => assert_eq!(read, Err(RuleFault::Path(PathFault::EmptySegment))),
            }
        }
    }

    #[test]
    fn a_mistake_says_how_it_is_written() {
        use RuleFault::*;
        for (text, fault) in [
            ("", Form),
            ("GET", Form),
            ("GET /v1.0/me", Form),
            ("GET graph/v1.0/me", Form),
            ("GET graph:v1.0/me", Form),
            ("GET Graph:/v1.0/me", Form),
            ("GET https://graph.microsoft.com/v1.0/me", Form),
            ("get graph:/v1.0/me", Method),
            ("* graph:/v1.0/me", Method),
            ("CONNECT graph:/v1.0/me", Method),
            ("GET  graph:/v1.0/me", Form),
            ("GET graph:/v1.0/users/*/messages", StarInside),
            ("GET graph:/v1.0/**", StarInside),
            ("GET graph:/v1.0/%6de", Escaped),
            ("GET graph:/v1.0/users('1')/messages", Key("/v1.0/users/1/messages".to_owned())),
            ("GET graph:/v1.0/users('1')/m*", Key("/v1.0/users/1".to_owned())),
            ("GET graph:/v1.0/../me", Path(PathFault::Dots)),
            ("GET graph:/v1.0//me", Path(PathFault::EmptySegment)),
            ("GET graph:/v1.0/me?$expand=x", Path(PathFault::Separator)),
            ("GET graph:/v1.0/me;x", Path(PathFault::Parameter)),
        ] {
            assert_eq!(RelayRule::parse(text).map(|_| ()), Err(fault), "{text}");
        }
    }
}
