//! The names in a client certificate that can name a caller: SPIFFE ids, DNS names and URIs.
//!
//! They are compared whole. A pattern, a common name or a part of a name names nobody.

use std::fmt;

/// Most names of one certificate that are looked at. A certificate with more names nobody, since each of
/// them costs a look-up at each request.
pub const MOST_NAMES: usize = 64;
/// Longest SPIFFE id, in bytes (SPIFFE-ID §2.3).
const LONGEST_SPIFFE_ID: usize = 2048;
/// Longest trust domain of a SPIFFE id, in bytes (SPIFFE-ID §2.1).
const LONGEST_TRUST_DOMAIN: usize = 255;
/// Longest DNS name, in bytes (RFC 1035 §2.3.4).
const LONGEST_DNS_NAME: usize = 253;
const SPIFFE: &str = "spiffe://";

/// The SPIFFE id of a workload, `spiffe://contoso.com/mail-sync`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(Box<str>);

/// Reason why a text is no SPIFFE id of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// It does not begin with `spiffe://`.
    #[error("must begin with `spiffe://`")]
    Scheme,
    /// The trust domain has a forbidden character, or none at all.
    #[error("must have a trust domain of `a-z 0-9 . - _`, without user or port, after `spiffe://`")]
    TrustDomain,
    /// It names a trust domain and no workload in it.
    #[error("must name a workload: a path after the trust domain, such as `spiffe://contoso.com/mail-sync`")]
    NoPath,
    /// The path has a forbidden character, or an empty, `.` or `..` segment.
    #[error(
        "must have a path of segments of `A-Z a-z 0-9 . - _`, none of them empty, `.` or `..`, and no query"
    )]
    Path,
    /// It is too long.
    #[error("must have at most 2048 bytes")]
    Length,
}

impl SpiffeId {
    /// Parses the id of a workload, by SPIFFE-ID §2.
    ///
    /// # Errors
    /// What breaks the form.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        let rest = text.strip_prefix(SPIFFE).ok_or(InvalidSpiffeId::Scheme)?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        let in_domain = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
        };
        let in_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if domain.is_empty() || domain.len() > LONGEST_TRUST_DOMAIN || !domain.bytes().all(in_domain) {
            return Err(InvalidSpiffeId::TrustDomain);
        }
        let path = path.filter(|path| !path.is_empty()).ok_or(InvalidSpiffeId::NoPath)?;
        if !path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(in_path)) {
            return Err(InvalidSpiffeId::Path);
        }
        if text.len() > LONGEST_SPIFFE_ID {
            return Err(InvalidSpiffeId::Length);
        }
        Ok(SpiffeId(text.into()))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A subject alternative name that names a caller: a DNS name in lower case, or a URI as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct San(Box<str>);

/// Reason why a text is no subject alternative name that may name a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSan {
    /// It is a SPIFFE id.
    #[error("is a SPIFFE id: say `spiffe` in place of `san`")]
    Spiffe,
    /// It has a wildcard.
    #[error("must be one whole name: names are compared exactly, and a `*` matches nothing")]
    Wildcard,
    /// It is neither of the two.
    #[error("must be a DNS name such as `mail-sync.contoso.com`, or a URI such as `urn:contoso:mail-sync`")]
    Form,
}

impl San {
    /// Parses a DNS name or a URI. What has a colon is a URI.
    ///
    /// # Errors
    /// What breaks the form.
    pub fn parse(text: &str) -> Result<Self, InvalidSan> {
        if text.to_ascii_lowercase().starts_with("spiffe:") {
            return Err(InvalidSan::Spiffe);
        }
        if text.contains('*') {
            return Err(InvalidSan::Wildcard);
        }
        if is_uri(text) {
            return Ok(San(text.into()));
        }
        dns_name(text).map(San).ok_or(InvalidSan::Form)
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names of one client certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateNames {
    spiffe_id: Option<Box<str>>,
    sans: Vec<Box<str>>,
}

impl CertificateNames {
    /// Takes the DNS names and URIs of a certificate's subject alternative name. What has not the form of a
    /// name is left out. With more than [`MOST_NAMES`] there is none.
    pub fn new<'a>(
        dns_names: impl IntoIterator<Item = &'a str>,
        uris: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let uris: Vec<&str> = uris.into_iter().take(MOST_NAMES + 1).collect();
        let dns_names: Vec<&str> = dns_names.into_iter().take(MOST_NAMES + 1).collect();
        if uris.len() + dns_names.len() > MOST_NAMES {
            return CertificateNames::default();
        }
        // An SVID has exactly one URI (X509-SVID §2, §5.2): another certificate has no SPIFFE id.
        let spiffe_id = match uris[..] {
            [uri] => SpiffeId::parse(uri).ok().map(|id| id.0),
            _ => None,
        };
        let uris = uris.into_iter().filter(|uri| is_uri(uri)).map(Box::from);
        let sans = dns_names.into_iter().filter_map(dns_name).chain(uris).collect();
        CertificateNames { spiffe_id, sans }
    }

    /// Returns the SPIFFE id, if the certificate is an X.509-SVID.
    pub fn spiffe_id(&self) -> Option<&str> {
        self.spiffe_id.as_deref()
    }

    /// Iterates over the names that [`San::parse`] could have made, and SPIFFE ids.
    pub fn sans(&self) -> impl Iterator<Item = &str> {
        self.sans.iter().map(|name| &**name)
    }
}

/// Returns true for a URI: a scheme, a colon, and printable ASCII (RFC 3986 §2, §3.1).
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        && !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns a DNS name in lower case, as names are compared (RFC 4343).
fn dns_name(text: &str) -> Option<Box<str>> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let is_name = text.len() <= LONGEST_DNS_NAME && text.split('.').all(label);
    is_name.then(|| text.to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_has_one_form() {
        let long = format!("spiffe://a/{}", "b".repeat(LONGEST_SPIFFE_ID - 10));
        let domain = format!("spiffe://{}/a", "d".repeat(LONGEST_TRUST_DOMAIN + 1));
        for (text, expected) in [
            ("spiffe://contoso.com/mail-sync", Ok(())),
            ("spiffe://a_b-1/ns/mail/sa/Sync.2", Ok(())),
            ("SPIFFE://contoso.com/a", Err(InvalidSpiffeId::Scheme)),
            ("https://contoso.com/a", Err(InvalidSpiffeId::Scheme)),
            ("spiffe:///a", Err(InvalidSpiffeId::TrustDomain)),
            ("spiffe://Contoso.com/a", Err(InvalidSpiffeId::TrustDomain)),
            ("spiffe://u@contoso.com/a", Err(InvalidSpiffeId::TrustDomain)),
            ("spiffe://contoso.com:1/a", Err(InvalidSpiffeId::TrustDomain)),
            (&domain, Err(InvalidSpiffeId::TrustDomain)),
            ("spiffe://contoso.com", Err(InvalidSpiffeId::NoPath)),
            ("spiffe://contoso.com/", Err(InvalidSpiffeId::NoPath)),
            ("spiffe://contoso.com/a/", Err(InvalidSpiffeId::Path)),
            ("spiffe://contoso.com//a", Err(InvalidSpiffeId::Path)),
            ("spiffe://contoso.com/../a", Err(InvalidSpiffeId::Path)),
            ("spiffe://contoso.com/a%2Fb", Err(InvalidSpiffeId::Path)),
            ("spiffe://contoso.com/a*", Err(InvalidSpiffeId::Path)),
            ("spiffe://contoso.com/a?b", Err(InvalidSpiffeId::Path)),
            (&long, Err(InvalidSpiffeId::Length)),
        ] {
            assert_eq!(SpiffeId::parse(text).map(|_| ()), expected, "{text}");
        }
    }

    #[test]
    fn a_san_is_a_whole_dns_name_or_a_uri() {
        for (text, expected) in [
            ("mail-sync.contoso.com", Ok("mail-sync.contoso.com")),
            ("Mail-Sync.Contoso.COM", Ok("mail-sync.contoso.com")),
            ("localhost", Ok("localhost")),
            ("urn:contoso:Mail", Ok("urn:contoso:Mail")),
            ("https://contoso.com/Mail?a", Ok("https://contoso.com/Mail?a")),
            ("spiffe://contoso.com/a", Err(InvalidSan::Spiffe)),
            ("Spiffe://contoso.com/a", Err(InvalidSan::Spiffe)),
            ("*.contoso.com", Err(InvalidSan::Wildcard)),
            ("contoso.com.", Err(InvalidSan::Form)),
            ("a b", Err(InvalidSan::Form)),
            ("1:a", Err(InvalidSan::Form)),
            ("urn:", Err(InvalidSan::Form)),
            ("", Err(InvalidSan::Form)),
        ] {
            assert_eq!(San::parse(text).as_ref().map(San::as_str), expected.as_ref().copied(), "{text}");
        }
    }

    #[test]
    fn the_names_of_a_certificate_are_those_that_have_the_form_of_one() {
        let names =
            CertificateNames::new(["A.example", "*.b.example", "https://c.example/"], ["spiffe://t/a"]);
        assert_eq!(names.spiffe_id(), Some("spiffe://t/a"));
        assert!(names.sans().eq(["a.example", "spiffe://t/a"]), "{names:?}");
        // Two URIs make no SVID.
        let names = CertificateNames::new([], ["spiffe://t/a", "urn:b:c"]);
        assert_eq!(names.spiffe_id(), None);
        assert!(names.sans().eq(["spiffe://t/a", "urn:b:c"]));
        let many = vec!["a.example"; MOST_NAMES];
        assert_eq!(CertificateNames::new(many.clone(), []).sans().count(), MOST_NAMES);
        assert_eq!(CertificateNames::new(many, ["spiffe://t/a"]), CertificateNames::default());
    }
}
