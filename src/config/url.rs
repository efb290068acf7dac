//! A strict parser of http and https URLs.
//!
//! Browsers forgive almost any mistake in a URL, and each forgiveness has been an open redirect somewhere. So
//! the configuration's URLs follow a small grammar that accepts only what every parser reads alike.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An absolute http or https URL, kept exactly as written. It has no user info and no fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    text: String,
    https: bool,
    host: String,
    port: Option<u16>,
    path: usize,
    query: Option<usize>,
}

/// Most bytes of a URL. The library that sends requests refuses 64 KiB or more, and servers rarely accept 8
/// KiB.
const MOST_BYTES: usize = 8 * 1024;

/// Reason why a URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is relative or protocol-relative, or has another scheme.
    #[error("must be an absolute URL that begins `https://`")]
    NotAbsolute,
    /// Parsers differ on control characters, spaces, backslashes and non-ASCII characters.
    #[error(
        "holds the character {0:?}; write international names in their `xn--` form and percent-encode the \
         rest"
    )]
    Character(char),
    /// It has user info, as in `https://user@host`.
    #[error("must not hold a user or password (`…@`)")]
    UserInfo,
    /// It has a fragment, as in `#…`.
    #[error("must not hold a fragment (`#…`)")]
    Fragment,
    /// The host is empty, or neither a host name nor an address.
    #[error("has no valid host name")]
    Host,
    /// The port is no port.
    #[error("has no valid port")]
    Port,
    /// A `%` has no two hexadecimal digits after it.
    #[error("holds a `%` that is not followed by two hexadecimal digits")]
    PercentEncoding,
    /// A path segment is `.` or `..`. Parsers remove it, so that the compared URL is not the fetched one.
    #[error("must not hold `.` or `..` as a part of its path")]
    DotSegment,
    /// It exceeds 8 KiB.
    #[error("is longer than {MOST_BYTES} bytes")]
    Length,
}

impl HttpUrl {
    /// Parses a URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > MOST_BYTES {
            return Err(UrlError::Length);
        }
        if let Some(character) = text.chars().find(|c| !c.is_ascii_graphic() || r#"\"<>^`{|}"#.contains(*c)) {
            return Err(UrlError::Character(character));
        }
        let (https, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else {
            return Err(UrlError::NotAbsolute);
        };
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, port) = split_host_port(&rest[..end])?;
        let path = text.len() - rest.len() + end;
        let query = text[path..].find('?').map(|at| path + at);
        let mut encoded = text[path..].split('%').skip(1);
        if !encoded.all(|tail| tail.len() >= 2 && tail.bytes().take(2).all(|b| b.is_ascii_hexdigit())) {
            return Err(UrlError::PercentEncoding);
        }
        let is_dots =
            |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
        if text[path..query.unwrap_or(text.len())].split('/').any(is_dots) {
            return Err(UrlError::DotSegment);
        }
        Ok(Self { text: text.to_owned(), https, host, port, path, query })
    }

    /// Returns the URL as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns true for https.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Returns the host in lower case; an IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, or the scheme's default.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.https { 443 } else { 80 })
    }

    /// Returns the path; empty if nothing follows the host.
    pub fn path(&self) -> &str {
        &self.text[self.path..self.query.unwrap_or(self.text.len())]
    }

    /// Returns the query without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|at| &self.text[at + 1..])
    }

    /// Returns true if the host can only be this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback_host(&self.host)
    }

    /// Returns true if nobody on the way can read what is sent: https, or plain http that stays on this
    /// machine.
    pub fn is_private_on_the_way(&self) -> bool {
        self.https || self.is_loopback()
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns true for `localhost`, 127.0.0.0/8 and ::1, in no other spelling.
pub(super) fn is_loopback_host(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`; the host is returned in lower case.
pub(super) fn split_host_port(text: &str) -> Result<(String, Option<u16>), UrlError> {
    if text.contains('@') {
        return Err(UrlError::UserInfo);
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest.split_once(']').ok_or(UrlError::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| UrlError::Host)?;
        match tail.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if tail.is_empty() => (host, None),
            None => return Err(UrlError::Host),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        Some(port) => {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            let number = port.parse::<u16>().ok().filter(|number| digits && *number > 0);
            Some(number.ok_or(UrlError::Port)?)
        }
        None => None,
    };
    if !text.starts_with('[') && !is_host_name(host) {
        return Err(UrlError::Host);
    }
    Ok((host.to_ascii_lowercase(), port))
}

/// Returns true for a DNS name or a dotted IPv4 address. Names that some parsers read as a number (`127.1`,
/// `0x7f000001`) are neither.
pub(super) fn is_host_name(host: &str) -> bool {
    let labels_ok = host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    let last = host.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let numeric = last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit());
    labels_ok && (!numeric || host.parse::<Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_eight_kibibytes_is_taken_and_a_longer_one_refused() {
        let longest = format!("https://a.example/{}", "a".repeat(MOST_BYTES - 18));
        assert!(HttpUrl::parse(&longest).is_ok_and(|url| url.as_str().len() == MOST_BYTES));
        assert_eq!(HttpUrl::parse(&format!("{longest}a")), Err(UrlError::Length));
    }

    #[test]
    fn refused() {
        use UrlError::*;
        for (text, error) in [
            ("", NotAbsolute),
            ("//evil.example/x", NotAbsolute),
            ("https:evil.example", NotAbsolute),
            ("https:/evil.example", NotAbsolute),
            ("HTTPS://evil.example", NotAbsolute),
            ("javascript:alert(1)", NotAbsolute),
            ("/settings", NotAbsolute),
            ("\\evil.example", Character('\\')),
            ("https:\\\\evil.example", Character('\\')),
            ("https://app.example\\@evil.example/", Character('\\')),
            ("https://app.example\r\nSet-Cookie: a=b", Character('\r')),
            ("https://app.example/\t", Character('\t')),
            ("https://app.example/a b", Character(' ')),
            ("https://\u{fc}ber.example/", Character('\u{fc}')),
            ("https://app.example/\u{ff0f}", Character('\u{ff0f}')),
            ("https://app.example\u{2024}evil.example/", Character('\u{2024}')),
            ("https://app.example@evil.example/", UserInfo),
            ("https://user:pass@app.example/", UserInfo),
            ("https://app.example/#x", Fragment),
            ("https://app.example#@evil.example", Fragment),
            ("https://", Host),
            ("https:///path", Host),
            ("https://:443/", Host),
            ("https://app..example/", Host),
            ("https://app.example./", Host),
            ("https://-app.example/", Host),
            ("https://app%2eexample/", Host),
            ("https://127.1/", Host),
            ("https://0x7f000001/", Host),
            ("https://2130706433/", Host),
            ("https://[::1/", Host),
            ("https://[::1]x/", Host),
            ("https://[nonsense]/", Host),
            ("https://app.example:/", Port),
            ("https://app.example:0/", Port),
            ("https://app.example:65536/", Port),
            ("https://app.example:+443/", Port),
            ("https://app.example/%zz", PercentEncoding),
            ("https://app.example/%4", PercentEncoding),
            ("https://app.example/a/../b", DotSegment),
            ("https://app.example/a/%2E%2e/b", DotSegment),
        ] {
            assert_eq!(HttpUrl::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn accepted() {
        let url = HttpUrl::parse("https://App.Contoso.com/settings/outlook?tab=mail&x=%2F").unwrap();
        assert!(url.is_https() && !url.is_loopback());
        assert_eq!((url.host(), url.port()), ("app.contoso.com", 443));
        assert_eq!((url.path(), url.query()), ("/settings/outlook", Some("tab=mail&x=%2F")));
        assert_eq!(url.as_str(), "https://App.Contoso.com/settings/outlook?tab=mail&x=%2F");

        let url = HttpUrl::parse("http://[::1]:8080").unwrap();
        assert!(!url.is_https() && url.is_loopback() && url.is_private_on_the_way());
        assert_eq!((url.host(), url.port(), url.path(), url.query()), ("::1", 8080, "", None));

        for text in ["http://localhost:8080/x", "http://127.0.0.1", "http://127.8.9.10:1/"] {
            assert!(HttpUrl::parse(text).unwrap().is_loopback(), "{text}");
        }
        for text in [
            "http://localhost.evil.example/",
            "https://10.0.0.1/",
            "https://xn--ber-goa.example/",
            "https://127.0.0.1.evil.example",
        ] {
            assert!(!HttpUrl::parse(text).unwrap().is_loopback(), "{text}");
        }
    }
}
