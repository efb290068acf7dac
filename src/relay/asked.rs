//! A request as it is judged: its method, its base, its path and its query, in their canonical forms.

use std::fmt;

use super::option::QueryFault;
use super::path::{CanonicalPath, PathFault};
use super::query::Query;

/// A method that is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

impl Method {
    /// Every one.
    pub const ALL: [Method; 6] =
        [Method::Get, Method::Head, Method::Post, Method::Put, Method::Patch, Method::Delete];
    /// The word of every one.
    pub const WORDS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

    /// Reads a method; case counts.
    pub fn parse(word: &str) -> Option<Self> {
        Method::ALL.into_iter().find(|method| method.as_str() == word)
    }

    /// Returns its word.
    pub const fn as_str(self) -> &'static str {
        Method::WORDS[self as usize]
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a caller asks to have relayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The base's name, as the caller wrote it.
    pub base: String,
    /// The path below the base.
    pub path: CanonicalPath,
    /// The query.
    pub query: Query,
}

/// What is wrong with a path or a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Odd {
    /// The path.
    #[error("the path {0}")]
    Path(#[from] PathFault),
    /// The query.
    #[error("the query {0}")]
    Query(#[from] QueryFault),
}

/// What is wrong with a request that a person has written as rules are. The text continues a sentence that
/// begins with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Miswritten {
    /// It has another form.
    #[error("must be a method, a base and a path, such as \"GET graph:/v1.0/me/messages?$top=1\"")]
    Form,
    /// The method is none that is relayed.
    #[error("must begin with one of {}, in capitals", Method::WORDS.join(", "))]
    Method,
    /// It is refused whatever the rules are.
    #[error("is refused, whatever the rules are: {0}")]
    Odd(#[from] Odd),
}

/// A path that no rule covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    /// By which method.
    pub method: Method,
    /// Below which base.
    pub base: String,
    /// The path.
    pub path: CanonicalPath,
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", self.method, self.base, self.path)
    }
}

impl Asked {
    /// Reads a path below a base, and a query, as they were sent.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(method: Method, base: &str, path: &str, query: Option<&str>) -> Result<Self, Odd> {
        let path = CanonicalPath::parse(path)?;
        let query = Query::parse(query.unwrap_or_default(), &path)?;
        Ok(Asked { method, base: base.to_owned(), path, query })
    }

    /// Reads a request as people write it: `GET graph:/v1.0/me/messages?$top=1`, the path as it would be
    /// sent.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn written(text: &str) -> Result<Self, Miswritten> {
        let (method, rest) = text.split_once(' ').ok_or(Miswritten::Form)?;
        let method = Method::parse(method).ok_or(Miswritten::Method)?;
        let (base, target) = rest.split_once(':').ok_or(Miswritten::Form)?;
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        if base.is_empty() || !path.starts_with('/') {
            return Err(Miswritten::Form);
        }
        Ok(Asked::read(method, base, path, query)?)
    }

    /// Judges the path, and what the query reaches beyond it, which is read. `is_covered` says what is
    /// allowed.
    ///
    /// # Errors
    /// The first path that is not.
    pub fn judge(
        &self,
        mut is_covered: impl FnMut(Method, &str, &CanonicalPath) -> bool,
    ) -> Result<(), Beyond> {
        let navigations = self.query.navigations().iter();
        let read = navigations.map(|navigation| (Method::Get, self.path.navigated(navigation)));
        for (method, path) in std::iter::once((self.method, self.path.clone())).chain(read) {
            if !is_covered(method, &self.base, &path) {
                return Err(Beyond { method, base: self.base.clone(), path });
            }
        }
        Ok(())
    }

    /// Returns path and query as they are sent.
    pub fn target(&self) -> String {
        let path = self.path.encoded();
        match self.query.encoded() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::RelayRule;
    use super::*;

    fn judged(rules: &[&str], method: Method, target: &str) -> Result<String, String> {
        let rules: Vec<RelayRule> =
            rules.iter().map(|rule| RelayRule::parse(rule).expect("a rule")).collect();
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let asked = Asked::read(method, "graph", path, query).map_err(|odd| odd.to_string())?;
        let covers = |method, base: &str, path: &CanonicalPath| {
            rules.iter().any(|rule| rule.covers(method, base, path))
        };
        asked.judge(covers).map(|()| asked.target()).map_err(|beyond| beyond.to_string())
    }

    /// A caller that may read messages wants contacts. (The ways that need a batch, a header or another door
    /// are tried from outside.)
    #[test]
    fn who_may_read_messages_cannot_read_contacts() {
        const MESSAGES: &[&str] = &["GET graph:/v1.0/me/messages*"];
        for way in [
            "/v1.0/me/contacts",
            "/v1.0/me/messages/../contacts",
            "/v1.0/me/messages/%2e%2e/contacts",
            "/v1.0/me/messages/..%2fcontacts",
            "/v1.0/me/messages/%252e%252e/contacts",
            "/v1.0/me/messages/..;/contacts",
            "/v1.0/me/messages/..%5ccontacts",
            "/v1.0/me/messages//../contacts",
            "/v1.0/me/messages('..')/contacts",
            "/v1.0/me/messages/%EF%BC%8E%EF%BC%8E/contacts",
            "/v1.0/me/messages%00/../contacts",
            "/v1.0/me/messages#/../contacts",
            "/v1.0/me/messages%3F/../contacts",
            "/V1.0/ME/MESSAGES/../contacts",
            "/beta/me/contacts",
            "/v1.0/users/4711/contacts",
            "/v1.0/users('4711')/contacts",
            "/v1.0/me?$expand=contacts",
            "/v1.0/me/?$expand=contacts",
            "/v1.0/me/messages?$expand=*",
            "/v1.0/me/messages?$expand=microsoft.graph.eventMessage/event",
            "/v1.0/me/messages?$expand=attachments($expand=microsoft.graph.itemAttachment/item)",
            "/v1.0/me/messages?$expand=attachments/../contacts",
            "/v1.0/me/messages?$apply=join(contacts%20as%20c)",
            "/v1.0/me/messages?$filter=$root/me/contacts/any()",
            "/v1.0/me/messages?$expand=@p&@p=contacts",
            "/v1.0/me/messages/$entity?$id=contacts('1')",
            "/v1.0/me/messages?$id=contacts('1')",
            "/v1.0/$crossjoin(me/messages,me/contacts)",
            "/v1.0/$all",
            "/v1.0/me/messages/$query",
            "/v1.0/me/messages/1/microsoft.graph.eventMessage/event",
            "/v1.0/$batch",
        ] {
            assert!(judged(MESSAGES, Method::Get, way).is_err(), "{way}");
        }
        for method in [Method::Head, Method::Post, Method::Put, Method::Patch, Method::Delete] {
            assert!(judged(MESSAGES, method, "/v1.0/me/messages").is_err(), "{method}");
        }
        for fine in [
            "/v1.0/me/messages",
            "/v1.0/me/messages?$top=10&$expand=attachments($select=id)",
            "/v1.0/me/messages/AAMk=/attachments",
        ] {
            assert!(judged(MESSAGES, Method::Get, fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_request_is_read_as_people_write_it() {
        let asked = Asked::written("GET graph:/v1.0/me/m%65ssages?%24top=1").expect("a request");
        assert_eq!((asked.method, asked.base.as_str()), (Method::Get, "graph"));
        assert_eq!(asked.target(), "/v1.0/me/messages?$top=1");
        for (text, words) in [
            ("", "must be a method"),
            ("GET", "must be a method"),
            ("GET /v1.0/me", "must be a method"),
            ("GET :/v1.0/me", "must be a method"),
            ("GET graph:v1.0/me", "must be a method"),
            ("get graph:/v1.0/me", "in capitals"),
            ("TRACE graph:/v1.0/me", "in capitals"),
            ("GET graph:/v1.0/me/../users", "whatever the rules are: the path"),
            ("GET graph:/v1.0/me?$apply=x", "whatever the rules are: the query"),
        ] {
            let said = Asked::written(text).expect_err(text).to_string();
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    #[test]
    fn what_a_query_reads_is_judged_like_a_request_of_its_own() {
        let rules = &[
            "GET graph:/v1.0/me/messages",
            "GET graph:/v1.0/me/messages/attachments",
            "POST graph:/v1.0/me/messages",
        ];
        let beyond = |method, target| judged(rules, method, target).expect_err(target);
        assert_eq!(
            judged(rules, Method::Get, "/v1.0/me/messages?%24expand=attachments").as_deref(),
            Ok("/v1.0/me/messages?$expand=attachments")
        );
        assert_eq!(
            beyond(Method::Get, "/v1.0/me/messages?$expand=extensions"),
            "GET graph:/v1.0/me/messages/extensions"
        );
        assert_eq!(
            beyond(Method::Get, "/v1.0/me/messages?expand=attachments($expand=item)"),
            "GET graph:/v1.0/me/messages/attachments/item"
        );
        // What a POST has expanded is read, too.
        assert!(judged(rules, Method::Post, "/v1.0/me/messages?$expand=attachments").is_ok());
        assert_eq!(
            beyond(Method::Post, "/v1.0/me/messages?$expand=extensions"),
            "GET graph:/v1.0/me/messages/extensions"
        );
    }
}
