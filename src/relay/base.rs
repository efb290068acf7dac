//! A base: the part of a resource's URLs below which requests are relayed.

/// A base with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    name: String,
    is_https: bool,
    /// In lower case; an IPv6 address has its brackets.
    host: String,
    port: u16,
    /// Without a slash at its end.
    path: String,
}

impl Base {
    /// Reads a base's URL: an absolute one, without a query, as the configuration has checked it.
    pub fn parse(name: &str, url: &str) -> Option<Self> {
        let (is_https, host, port, path) = split(url)?;
        if path.contains(['?', '#']) {
            return None;
        }
        let path = path.trim_end_matches('/').to_owned();
        Some(Base { name: name.to_owned(), is_https, host, port, path })
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its host in lower case, without brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns scheme, host and port, without the scheme's own port.
    pub fn origin(&self) -> String {
        match (self.is_https, self.port) {
            (true, 443) => format!("https://{}", self.host),
            (false, 80) => format!("http://{}", self.host),
            (true, port) => format!("https://{}:{port}", self.host),
            (false, port) => format!("http://{}:{port}", self.host),
        }
    }

    /// Returns the URL of a target below it, which begins with a slash.
    pub fn url(&self, target: &str) -> String {
        format!("{}{}{target}", self.origin(), self.path)
    }

    /// Returns what an absolute URL has behind this base, from its slash on. `None` if it does not point
    /// below it.
    pub(super) fn rest_of<'u>(&self, url: &'u str) -> Option<&'u str> {
        let (is_https, host, port, path) = split(url)?;
        let is_here = (is_https, &host, port) == (self.is_https, &self.host, self.port);
        path.strip_prefix(self.path.as_str()).filter(|rest| is_here && rest.starts_with('/'))
    }
}

/// Splits an absolute URL into whether it is https, host, port, and the rest.
fn split(url: &str) -> Option<(bool, String, u16, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let is_https = match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => true,
        _ if scheme.eq_ignore_ascii_case("http") => false,
        _ => return None,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, if is_https { 443 } else { 80 }),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    let is_host = !host.is_empty() && host.bytes().all(is_plain);
    is_host.then(|| (is_https, host.to_ascii_lowercase(), port, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_stands_below_its_base() {
        for (url, origin, sent) in [
            (
                "https://graph.microsoft.com",
                "https://graph.microsoft.com",
                "https://graph.microsoft.com/v1.0/me",
            ),
            (
                "https://Graph.Microsoft.com:443/",
                "https://graph.microsoft.com",
                "https://graph.microsoft.com/v1.0/me",
            ),
            ("http://127.0.0.1:8400/graph", "http://127.0.0.1:8400", "http://127.0.0.1:8400/graph/v1.0/me"),
            ("https://[::1]:8443", "https://[::1]:8443", "https://[::1]:8443/v1.0/me"),
        ] {
            let base = Base::parse("graph", url).expect(url);
            assert_eq!((base.origin().as_str(), base.url("/v1.0/me").as_str()), (origin, sent), "{url}");
        }
        assert_eq!(Base::parse("graph", "https://[::1]:8443").expect("a base").host(), "::1");
        for odd in
            ["graph.microsoft.com", "ftp://a", "https://", "https://a@b", "https://a?x", "https://a:x/"]
        {
            assert_eq!(Base::parse("graph", odd), None, "{odd}");
        }
    }
}
