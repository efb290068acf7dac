//! Choice of the way out for a request: through a forward proxy, or directly. Pure; no name is resolved for
//! it.

use std::fmt;
use std::net::IpAddr;

/// A forward proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Use TLS to the proxy itself (`https://`).
    pub tls: bool,
    /// Host in lower case; an IPv6 address has no brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The configuration key or environment variable that named it, for people.
    pub named_by: String,
}

/// `host:port (configuration key or variable)`.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", host_and_port(&self.host, self.port), self.named_by)
    }
}

/// Returns `host:port`, with brackets around an IPv6 address.
pub fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// One entry of `no_proxy`: destinations that are reached directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    hosts: Hosts,
    /// Limits the entry to this port; `None` means every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    /// Addresses that begin with these bits. Names are never resolved for the comparison.
    Network(IpAddr, u8),
    /// The name, and all names below it.
    Domain(String),
}

impl Exception {
    /// Parses an entry: `*`, an address, a network (`10.0.0.0/8`) or a domain; each may end in `:port`. A
    /// domain includes all names below it (`contoso.com`, `.contoso.com` and `*.contoso.com` are the same).
    /// Returns `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        // (Only an IPv6 address has several colons.)
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, Some(port.strip_prefix(':')?)),
            None if text.matches(':').count() == 1 => text.split_once(':').map(|(h, p)| (h, Some(p)))?,
            None => (text, None),
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port > 0)?)
            }
            Some(_) => return None,
            None => None,
        };
        let hosts = match host.split_once('/') {
            _ if host == "*" => Hosts::All,
            Some((address, bits)) => {
                let address: IpAddr = address.parse().ok()?;
                let longest = if address.is_ipv4() { 32 } else { 128 };
                Hosts::Network(address, bits.parse().ok().filter(|bits| *bits <= longest)?)
            }
            None => match host.parse::<IpAddr>() {
                Ok(address) => Hosts::Network(address, if address.is_ipv4() { 32 } else { 128 }),
                Err(_) => Hosts::Domain(domain(host)?),
            },
        };
        Some(Exception { hosts, port })
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        let is_host = match &self.hosts {
            Hosts::All => true,
            Hosts::Network(network, bits) => host
                .parse::<IpAddr>()
                .is_ok_and(|address| begins_with(address.to_canonical(), *network, *bits)),
            Hosts::Domain(domain) => {
                host == domain || host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
        };
        is_host && self.port.is_none_or(|only| only == port)
    }
}

fn domain(text: &str) -> Option<String> {
    let name = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')).unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    let labels_fit = name.len() <= 253 && name.split('.').all(is_label);
    // `10.1` and `192.168` are parts of addresses; no domain ends in a number.
    (labels_fit && !name.rsplit('.').next().is_some_and(is_number)).then(|| name.to_ascii_lowercase())
}

fn begins_with(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (address, network, width): (u128, u128, u8) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u32::from(a).into(), u32::from(n).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.into(), n.into(), 128),
        _ => return false,
    };
    (address ^ network).checked_shr(u32::from(width - bits)).unwrap_or(0) == 0
}

/// Proxies, and the destinations that need none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// For `https` destinations.
    pub https: Option<Proxy>,
    /// For `http` destinations, all of which are on this machine.
    pub http: Option<Proxy>,
    /// Destinations that use neither.
    pub exceptions: Vec<Exception>,
}

impl Routes {
    /// Returns the proxy for a destination, or `None` if it is reached directly. `host` is in lower case,
    /// without brackets.
    pub fn proxy_for(&self, https: bool, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = if https { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !self.exceptions.iter().any(|exception| exception.covers(host, port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_covers_what_it_says_and_nothing_else() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("*", &["login.example:443", "127.0.0.1:80", "::1:443"], &[]),
            ("*:8443", &["login.example:8443"], &["login.example:443"]),
            (
                "127.0.0.0/8",
                &["127.0.0.1:80", "127.255.0.9:443", "::ffff:127.0.0.1:80"],
                &["128.0.0.1:80", "localhost:80"],
            ),
            ("0.0.0.0/0", &["9.9.9.9:443"], &["2001:db8::1:443", "a.example:443"]),
            ("10.1.2.3", &["10.1.2.3:443"], &["10.1.2.30:443"]),
            ("10.1.2.3/32", &["10.1.2.3:443"], &["10.1.2.2:443"]),
            ("10.1.2.3:8443", &["10.1.2.3:8443"], &["10.1.2.3:443"]),
            ("::1", &["::1:443"], &["::2:443", "0.0.0.1:443"]),
            ("[::1]:8443", &["::1:8443"], &["::1:443"]),
            ("fd00::/8", &["fd12::1:443"], &["fe00::1:443"]),
            ("::/0", &["fd12::1:443"], &["1.2.3.4:443"]),
            (
                "contoso.com",
                &["contoso.com:443", "id.contoso.com:8443"],
                &["notcontoso.com:443", "contoso.com.evil.example:443"],
            ),
            (".Contoso.com", &["contoso.com:443", "a.b.contoso.com:443"], &["xcontoso.com:443"]),
            ("*.contoso.com:443", &["id.contoso.com:443"], &["id.contoso.com:444"]),
            (" localhost ", &["localhost:80"], &["127.0.0.1:80"]),
        ];
        for (entry, covered, others) in rows {
            let exception = Exception::parse(entry).unwrap_or_else(|| panic!("{entry}"));
            let covers = |destination: &&str| {
                let (host, port) = destination.rsplit_once(':').expect("a port");
                exception.covers(host, port.parse().expect("a port"))
            };
            for destination in *covered {
                assert!(covers(destination), "{entry} covers {destination}");
            }
            for destination in *others {
                assert!(!covers(destination), "{entry} does not cover {destination}");
            }
        }
    }

    #[test]
    fn what_is_no_exception() {
        for entry in [
            "",
            " ",
            ".",
            "*.",
            "10.0.0.0/33",
            "fd00::/129",
            "10.1",
            "192.168.*",
            "a b",
            "host:",
            "host:0",
            "host:99999",
            "host:+80",
            "[::1",
            "[::1]8443",
            "http://contoso.com",
            "user@host",
            "<local>",
            "a..b",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert_eq!(Exception::parse(entry), None, "{entry:?}");
        }
    }

    #[test]
    fn a_proxy_is_for_its_scheme_and_for_what_is_no_exception() {
        let proxy =
            |host: &str| Proxy { tls: false, host: host.into(), port: 3128, named_by: "a test".into() };
        let routes = Routes {
            https: Some(proxy("p")),
            http: None,
            exceptions: vec![Exception::parse(".contoso.com").expect("an entry")],
        };
        assert_eq!(routes.proxy_for(true, "login.example", 443), Some(&proxy("p")));
        assert_eq!(routes.proxy_for(true, "id.contoso.com", 443), None);
        assert_eq!(routes.proxy_for(false, "127.0.0.1", 80), None);
        assert_eq!(proxy("::1").to_string(), "[::1]:3128 (a test)");
    }
}
