//! The rules for the head of an HTTP/2 request that the library leaves to us: a request has one reading, or
//! is refused.
//!
//! The library itself refuses upper-case names, fields of a connection (`Connection`, `Keep-Alive`,
//! `Proxy-Connection`, `Transfer-Encoding`, `Upgrade`, `TE` other than `trailers`), control characters in
//! values, missing, repeated, unknown and late pseudo-fields, lengths that contradict each other or the body.

use http::request::Parts;
use http::{HeaderValue, Method, header};

use crate::listener::Limits;
use crate::listener::head_values::{is_host, is_target};

/// Text of a line that is no name and no value.
const PER_LINE: usize = 4;

/// Fault of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It can be read in two ways, or not at all.
    Malformed(&'static str),
    /// It is longer than HTTP/1 would take it, or has more lines.
    TooLarge,
}

/// Checks a head, and gives it the `Host` that its `:authority` says.
pub(super) fn check(head: &mut Parts, limits: &Limits) -> Result<(), Fault> {
    let malformed = |reason| Err(Fault::Malformed(reason));
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    let lines = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + PER_LINE);
    let length = head.method.as_str().len() + lines.sum::<usize>();
    // The target has a limit and an answer of its own, unless it makes the whole too long.
    if head.headers.len() > limits.max_headers || length + target.len() > limits.max_header_bytes {
        return Err(Fault::TooLarge);
    }
    if head.method == Method::CONNECT || !target.starts_with('/') || !is_target(target.as_bytes()) {
        return malformed("target is not in origin form");
    }
    if !matches!(head.uri.scheme_str(), None | Some("https" | "http")) {
        return malformed("scheme");
    }
    if head.headers.values().any(|value| value.as_bytes().trim_ascii().len() != value.len()) {
        return malformed("blanks around a value");
    }
    if head.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return malformed("repeated Content-Length");
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match (authority, host, another) {
        (_, _, Some(_)) | (None, None, None) => return malformed("missing or repeated Host"),
        (Some(authority), Some(host), None) if authority != host.as_bytes() => {
            return malformed("Host is another than :authority");
        }
        (Some(host), _, None) => host,
        (None, Some(host), None) => host.as_bytes(),
    };
    if !is_host(host) {
        return malformed("Host");
    }
    let host = HeaderValue::from_bytes(host).map_err(|_| Fault::Malformed("Host"))?;
    head.headers.insert(header::HOST, host);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(uri: &str, lines: &[(&str, &str)]) -> Result<String, Fault> {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).expect("a request").into_parts();
        check(&mut head, &Limits::default())?;
        let hosts: Vec<_> = head.headers.get_all(header::HOST).iter().collect();
        assert_eq!(hosts.len(), 1);
        Ok(hosts[0].to_str().expect("text").to_owned())
    }

    #[test]
    fn a_request_has_one_host_by_either_name() {
        assert_eq!(checked("https://a:1/b?c", &[]).as_deref(), Ok("a:1"));
        assert_eq!(checked("https://a/", &[("host", "a")]).as_deref(), Ok("a"));
        assert_eq!(checked("/", &[("host", "[::1]:80")]).as_deref(), Ok("[::1]:80"));
        let bad: &[(&str, &[(&str, &str)])] = &[
            ("/", &[]),
            ("/", &[("host", "a"), ("host", "a")]),
            ("https://a/", &[("host", "a"), ("host", "a")]),
            ("https://a/", &[("host", "b")]),
            ("https://a/", &[("host", "A")]),
            ("https://user@a/", &[]),
            ("/", &[("host", "user@a")]),
            ("/", &[("host", "a b")]),
        ];
        for (uri, lines) in bad {
            assert!(matches!(checked(uri, lines), Err(Fault::Malformed(_))), "{uri} {lines:?}");
        }
    }

    #[test]
    fn what_has_two_readings_is_malformed() {
        for uri in ["*", "a:443", "https://a/b\\c", "ftp://a/"] {
            let fault = checked(uri, &[("host", "a")]);
            assert!(matches!(fault, Err(Fault::Malformed(_))), "{uri}: {fault:?}");
        }
        for lines in [
            &[("x", " a")][..],
            &[("x", "a\t")],
            &[("content-length", "1"), ("content-length", "1")],
            &[("content-length", "1 ")],
        ] {
            let fault = checked("https://a/", lines);
            assert!(matches!(fault, Err(Fault::Malformed(_))), "{lines:?}: {fault:?}");
        }
    }

    #[test]
    fn a_head_is_as_long_as_one_of_http_1_may_be() {
        let value = "x".repeat(16_000);
        assert!(checked("https://a/", &[("x", &value)]).is_ok());
        let value = "x".repeat(16_400);
        assert_eq!(checked("https://a/", &[("x", &value)]), Err(Fault::TooLarge));
        assert!(checked("https://a/", &vec![("x", "y"); 64]).is_ok());
        assert_eq!(checked("https://a/", &vec![("x", "y"); 65]), Err(Fault::TooLarge));
    }
}
