//! A query in its canonical form, and what it reaches beyond its path.

use percent_encoding::percent_decode;

use super::expand::navigations;
use super::option::{QueryFault, REFUSED, begins_elsewhere, names_method, option};
use super::path::{CanonicalPath, push_encoded};

/// How an annotation begins that Graph takes as a parameter.
const ANNOTATION: &str = "@microsoft.graph.";

/// A query that can be read in one way only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, Option<String>)>,
    navigations: Vec<String>,
}

impl Query {
    /// Reads the query of a path, as it was sent.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(raw: &str, path: &CanonicalPath) -> Result<Self, QueryFault> {
        let mut query = Query::default();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (decoded(name)?, Some(decoded(value)?)),
                None => (decoded(pair)?, None),
            };
            if !is_name(&name) {
                return Err(QueryFault::Name);
            }
            query.judge(&name, value.as_deref().unwrap_or_default(), path)?;
            query.pairs.push((name, value));
        }
        Ok(query)
    }

    fn judge(&mut self, name: &str, value: &str, path: &CanonicalPath) -> Result<(), QueryFault> {
        match option(name) {
            Some("expand") => navigations(value, &mut self.navigations),
            Some("select") if value.contains(['(', ')']) => Err(QueryFault::Select),
            Some("filter" | "orderby") if begins_elsewhere(value) => Err(QueryFault::Filter),
            Some("id") if !path.ends_in("$ref") => Err(QueryFault::Id),
            Some(known) if REFUSED.contains(&known) => Err(QueryFault::Option),
            Some(_) => Ok(()),
            None if name.starts_with('$') => Err(QueryFault::Option),
            None if names_method(name) => Err(QueryFault::Method),
            None => Ok(()),
        }
    }

    /// Returns the navigations of `$expand`, each from the path on.
    pub fn navigations(&self) -> &[String] {
        &self.navigations
    }

    /// Returns it as it is sent; `None` if it is empty.
    pub fn encoded(&self) -> Option<String> {
        if self.pairs.is_empty() {
            return None;
        }
        let mut text = String::new();
        for (name, value) in &self.pairs {
            if !text.is_empty() {
                text.push('&');
            }
            name.bytes().for_each(|byte| push_encoded(&mut text, byte, is_plain));
            if let Some(value) = value {
                text.push('=');
                value.bytes().for_each(|byte| push_encoded(&mut text, byte, is_plain));
            }
        }
        Some(text)
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~$'(),:@!*/".contains(&byte)
}

fn is_name(name: &str) -> bool {
    let rest = name.strip_prefix(ANNOTATION).or_else(|| name.strip_prefix('$')).unwrap_or(name);
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Decodes a name or a value, once: `+` is a space.
fn decoded(raw: &str) -> Result<String, QueryFault> {
    let bytes = raw.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let is_escape = |at: usize| is_digit(at + 1) && is_digit(at + 2);
    if (0..bytes.len()).any(|at| bytes[at] == b'%' && !is_escape(at)) {
        return Err(QueryFault::Encoding);
    }
    let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    let decoded = percent_decode(&spaced).decode_utf8().map_err(|_| QueryFault::Encoding)?;
    if decoded.chars().any(char::is_control) {
        return Err(QueryFault::Encoding);
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &str) -> Result<Query, QueryFault> {
        Query::parse(raw, &CanonicalPath::parse("/v1.0/me/messages").expect("a path"))
    }

    #[test]
    fn every_spelling_of_expand_is_judged() {
        for raw in [
            "$expand=contacts",
            "%24expand=contacts",
            "%24%65xpand=contacts",
            "$Expand=contacts",
            "$EXPAND=contacts",
            "expand=contacts",
            "eXpand=contacts",
            "$top=1&$expand=contacts",
            "$expand=%63ontacts",
            "$expand=+contacts+",
            "&&$expand=contacts&",
        ] {
            assert_eq!(
                read(raw).map(|query| query.navigations().to_vec()),
                Ok(vec!["contacts".to_owned()]),
                "{raw}"
            );
        }
    }

    #[test]
    fn what_reaches_elsewhere_is_refused() {
        use QueryFault::*;
        for (raw, fault) in [
            ("$apply=groupby((x))", Option),
            ("apply=x", Option),
            ("$compute=a", Option),
            ("$levels=2", Option),
            ("$unknown=1", Option),
            ("$id=contacts('1')", Id),
            ("id=contacts('1')", Id),
            ("@p=1", Name),
            ("%2524expand=contacts", Name),
            ("$expand%20=contacts", Name),
            ("+$expand=contacts", Name),
            ("$expand%00=contacts", Encoding),
            ("=1", Name),
            ("$expand=*", Expand),
            ("$expand=@p", Expand),
            ("$expand", Expand),
            ("$select=contacts($select=id)", Select),
            ("$filter=$root/me/contacts/any()", Filter),
            ("$filter=@p", Filter),
            // Which of the quotes begin a text is read in two ways.
            ("$filter=a eq \"x' or $root/me eq 'y\"", Filter),
            ("$filter=subject eq '\"'", Filter),
            ("$orderby=\"a', microsoft.graph.x/y, 'b\"", Filter),
            ("$expand=attachments($filter=$root/me/contacts/any())", Filter),
            ("$expand=attachments($orderby=microsoft.graph.x/y)", Filter),
            ("$expand=attachments($filter=name eq @p)", Filter),
            ("$expand=attachments($search=\"a;$expand=contacts\")", Expand),
            ("_method=DELETE", Method),
            ("_METHOD=DELETE", Method),
            ("%5fmethod=DELETE", Method),
            ("X-HTTP-Method-Override=DELETE", Method),
            ("x_http_method=PATCH", Method),
            ("$orderby=microsoft.graph.eventMessage/event/subject", Filter),
            ("$filter=Microsoft.Graph.eventMessage/event/subject eq 'x'", Filter),
            ("$top=%zz", Encoding),
            ("$top=%ff", Encoding),
            ("a=%0d%0a", Encoding),
        ] {
            assert_eq!(read(raw).map(|_| ()), Err(fault), "{raw}");
        }
    }

    #[test]
    fn what_is_sent_is_written_anew() {
        for (raw, sent) in [
            ("%24top=10&%24skip=20", "$top=10&$skip=20"),
            (
                "$filter=from/emailAddress/address+eq+'a@b.example'",
                "$filter=from/emailAddress/address%20eq%20'a@b.example'",
            ),
            ("$filter=isof('microsoft.graph.eventMessage')", "$filter=isof('microsoft.graph.eventMessage')"),
            ("$expand=attachments($select=id;$top=1)", "$expand=attachments($select%3Did%3B$top%3D1)"),
            ("$search=\"a%26b;c\"", "$search=%22a%26b%3Bc%22"),
            ("$count", "$count"),
            ("@microsoft.graph.conflictBehavior=rename", "@microsoft.graph.conflictBehavior=rename"),
            ("startDateTime=2026-11-30T00:00:00Z", "startDateTime=2026-11-30T00:00:00Z"),
        ] {
            let query = read(raw).expect(raw);
            assert_eq!(query.encoded().as_deref(), Some(sent), "{raw}");
            assert_eq!(read(sent), Ok(query), "{raw}");
        }
        assert_eq!(read("").map(|query| query.encoded()), Ok(None));
        let of_ref = CanonicalPath::parse("/v1.0/groups/1/members/$ref").expect("a path");
        assert!(Query::parse("$id=https://graph.microsoft.com/v1.0/users/1", &of_ref).is_ok());
    }
}
