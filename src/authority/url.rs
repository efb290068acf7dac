//! URLs that we are willing to call. They are parsed once, so that nothing searches their text afterwards.

use std::net::IpAddr;

use http::Uri;

use crate::outbound::Reach;

/// Longest URL.
const MAX_LENGTH: usize = 2048;

/// An absolute `http` or `https` URL with a plain host: no userinfo, no fragment, no escapes in the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckedUrl {
    text: String,
    uri: Uri,
    host: String,
    port: u16,
    https: bool,
}

/// Reason why a URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// It is not an absolute URL, is too long, or has forbidden characters.
    #[error("is not an absolute URL of at most 2048 plain characters")]
    Malformed,
    /// The scheme is neither `https` nor an allowed `http`.
    #[error("must begin with https:// (http:// only where the authority itself is on loopback)")]
    Scheme,
    /// It has credentials before the host.
    #[error("must not carry a user or a password")]
    Userinfo,
    /// It has a `#`.
    #[error("must not carry a fragment")]
    Fragment,
    /// The host is empty, escaped, or ends in a dot.
    #[error("has a host that is empty, escaped or ends in a dot")]
    Host,
}

impl CheckedUrl {
    /// Parses a URL. Plain `http` needs `allow_http` and a loopback host.
    pub(super) fn parse(text: &str, allow_http: bool) -> Result<Self, UrlFault> {
        let url = Self::parse_plain_too(text)?;
        let may_be_called = url.https || (allow_http && url.is_loopback());
        if may_be_called { Ok(url) } else { Err(UrlFault::Scheme) }
    }

    /// Parses a URL, plain `http` to any host too.
    pub(super) fn parse_plain_too(text: &str) -> Result<Self, UrlFault> {
        if text.len() > MAX_LENGTH || !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('\\')
        {
            return Err(UrlFault::Malformed);
        }
        if text.contains('#') {
            return Err(UrlFault::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| UrlFault::Malformed)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlFault::Scheme),
        };
        let authority = uri.authority().ok_or(UrlFault::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(UrlFault::Userinfo);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || host.contains('%') || host.ends_with('.') {
            return Err(UrlFault::Host);
        }
        let default_port = if https { 443 } else { 80 };
        // `host:`, `host:0` and `host:99999` have no valid port.
        let port = match authority.as_str().rsplit_once(':') {
            Some((_, digits)) if !digits.ends_with(']') => {
                digits.parse().ok().filter(|port| *port != 0).ok_or(UrlFault::Malformed)?
            }
            _ => default_port,
        };
        Ok(CheckedUrl { text: text.to_owned(), uri, host, port, https })
    }

    /// Returns the URL as given.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the URL as given, up to its query.
    pub(super) fn without_query(&self) -> &str {
        self.text.split_once('?').map_or(&self.text, |(before, _)| before)
    }

    /// Returns the URL for the HTTP client.
    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Returns the host in lower case, without brackets.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, or the scheme's own if none is written.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Returns true for `https`.
    pub(super) fn is_https(&self) -> bool {
        self.https
    }

    /// Returns the host as an address, if it is written as one.
    pub(super) fn literal(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Returns true if the host can only be this machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.literal().is_some_and(|address| Reach::of(address) == Reach::Loopback)
    }

    /// Returns the URL with more parameters.
    pub(super) fn with_query(&self, query: &str) -> String {
        let joint = if self.has_query() { '&' } else { '?' };
        format!("{}{joint}{query}", self.text)
    }

    /// Returns `{scheme}://{host}[:{port}]`, as written.
    pub(super) fn origin(&self) -> &str {
        let path = self.text.find("://").map_or(0, |at| at + 3);
        let end = self.text[path..].find(['/', '?']).map_or(self.text.len(), |at| path + at);
        &self.text[..end]
    }

    /// Iterates over the path's segments, without empty ones.
    pub(super) fn segments(&self) -> impl Iterator<Item = &str> {
        self.uri.path().split('/').filter(|segment| !segment.is_empty())
    }

    /// Returns true if the URL has a query.
    pub(super) fn has_query(&self) -> bool {
        self.uri.query().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_called_and_what_not() {
        let rows = [
            ("https://login.microsoftonline.com/common/v2.0", true, None),
            ("https://login.example:8443", false, None),
            ("https://[::1]:8443/x", false, None),
            ("http://127.0.0.1:8080/x", true, None),
            ("http://localhost/x", true, None),
            ("http://[::1]:1/x", true, None),
            ("http://127.0.0.1:8080/x", false, Some(UrlFault::Scheme)),
            ("http://login.example/x", true, Some(UrlFault::Scheme)),
            ("http://localhost.evil.example/x", true, Some(UrlFault::Scheme)),
            ("ftp://login.example/x", true, Some(UrlFault::Scheme)),
            ("file:///etc/passwd", true, Some(UrlFault::Malformed)),
            ("/x", true, Some(UrlFault::Scheme)),
            ("", true, Some(UrlFault::Malformed)),
            ("https://user@login.example/", true, Some(UrlFault::Userinfo)),
            ("https://user:pw@login.example/", true, Some(UrlFault::Userinfo)),
            ("https://login.example/#x", true, Some(UrlFault::Fragment)),
            ("https://login.example./", true, Some(UrlFault::Host)),
            ("https://login%2eexample/", true, Some(UrlFault::Malformed)),
            ("https://login.example:0/", true, Some(UrlFault::Malformed)),
            ("https://login.example:/", true, Some(UrlFault::Malformed)),
            ("https://login.example:99999/", true, Some(UrlFault::Malformed)),
            ("https://login.example\\@evil/", true, Some(UrlFault::Malformed)),
            ("https://löğin.example/", true, Some(UrlFault::Malformed)),
            ("https://login.example/\r\nx", true, Some(UrlFault::Malformed)),
        ];
        for (text, allow_http, fault) in rows {
            assert_eq!(CheckedUrl::parse(text, allow_http).err(), fault, "{text}");
        }
    }

    #[test]
    fn a_url_comes_apart_as_written() {
        let url = CheckedUrl::parse("https://Login.Example:8443/a//b?c=d", false).expect("a URL");
        assert_eq!(
            (url.host(), url.port(), url.origin()),
            ("login.example", 8443, "https://Login.Example:8443")
        );
        assert_eq!(url.segments().collect::<Vec<_>>(), ["a", "b"]);
        assert!(url.has_query());
    }
}
