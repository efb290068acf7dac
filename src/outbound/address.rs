//! Network addresses that a discovery document may lead us to.
//!
//! A discovery document names hosts, and hosts resolve to addresses. Neither may give access to the network
//! around this process: a public authority may only lead to public addresses, and a private one also to
//! private addresses of its own kind (CWE-918).

use parking_lot::Mutex;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

/// Scope of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Routed on the Internet.
    Public,
    /// Private, shared or unique-local: RFC 1918, RFC 6598, RFC 4193 and their kin.
    Private,
    /// 169.254/16 and fe80::/10, where clouds have their metadata services.
    LinkLocal,
    /// This machine.
    Loopback,
    /// No valid destination: unspecified, multicast, broadcast, reserved.
    Never,
}

impl Reach {
    /// Returns the scope of an address, and recognizes IPv4 addresses written as IPv6 ones.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Reach::of_v4(address),
            IpAddr::V6(address) => match embedded_v4(address) {
                Some(inner) => Reach::of_v4(inner),
                None => Reach::of_v6(address),
            },
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        match (a, b, c) {
            (0 | 224..=255, _, _) => Reach::Never,
            (127, _, _) => Reach::Loopback,
            (169, 254, _) => Reach::LinkLocal,
            (10, _, _) | (172, 16..=31, _) | (192, 168, _) => Reach::Private,
            (100, 64..=127, _) => Reach::Private, // carrier-grade NAT, and some clouds' own services
            (192, 0, 0) | (198, 18..=19, _) => Reach::Private, // protocol assignments, benchmarks
            (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Reach::Never, // documentation
            _ => Reach::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let first = address.segments()[0];
        match first {
            _ if address.is_unspecified() || address.is_multicast() => Reach::Never,
            _ if address.is_loopback() => Reach::Loopback,
            _ if first & 0xffc0 == 0xfe80 => Reach::LinkLocal,
            _ if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => Reach::Private,
            0x2000..=0x3fff => Reach::Public,
            _ => Reach::Never, // not global unicast (RFC 4291 §2.4)
        }
    }
}

/// Returns the IPv4 address inside a mapped, compatible, NAT64, 6to4 or local NAT64 address.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(join(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(join(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        [0x64, 0xff9b, 1, _, _, _, high, low] => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

/// Checks every address before a connection to it.
#[derive(Debug)]
pub(crate) struct AddressGuard {
    /// If there are some, only addresses of these scopes.
    only: Option<&'static [Reach]>,
    authority_host: String,
    /// Scope of the authority's own address; updated whenever its name is resolved.
    authority_reach: Mutex<Option<Reach>>,
}

impl AddressGuard {
    /// Makes a guard for the authority on `host` (lower case, no brackets).
    pub(crate) fn new(host: &str) -> Self {
        let literal = host.parse().ok().map(Reach::of);
        AddressGuard { only: None, authority_host: host.to_owned(), authority_reach: Mutex::new(literal) }
    }

    /// Makes a guard that lets every name lead to these scopes alone.
    pub(crate) fn only(scopes: &'static [Reach]) -> Self {
        AddressGuard { only: Some(scopes), authority_host: String::new(), authority_reach: Mutex::default() }
    }

    /// Returns true if `host` may be reached at `address`. The operator configured the authority's own host,
    /// so it may be anywhere. Other hosts come from the authority, so they may be public, or as near as the
    /// authority itself.
    pub(crate) fn allows(&self, host: &str, address: IpAddr) -> bool {
        if let Some(only) = self.only {
            return only.contains(&Reach::of(address));
        }
        match Reach::of(address) {
            Reach::Never => false,
            Reach::Public => true,
            _ if host.eq_ignore_ascii_case(&self.authority_host) => true,
            near => *self.lock() == Some(near),
        }
    }

    /// Returns those of `addresses`, to which `host` resolved, that may be connected to.
    fn filter(&self, host: &str, addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let addresses: Vec<SocketAddr> = addresses.collect();
        if host.eq_ignore_ascii_case(&self.authority_host) {
            // With one public address the authority counts as public.
            let reaches = || addresses.iter().map(|address| Reach::of(address.ip()));
            *self.lock() = reaches().find(|reach| *reach == Reach::Public).or_else(|| reaches().next());
        }
        addresses.into_iter().filter(|address| self.allows(host, address.ip())).collect()
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Option<Reach>> {
        self.authority_reach.lock()
    }
}

/// Why a host is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAllowed {
    /// The authority is farther away.
    #[error("every address of this host is private, local or reserved, which the authority is not")]
    Nearer,
    /// Other scopes are allowed.
    #[error("every address of this host is private, local or reserved")]
    NotPublic,
}

/// The system's resolver behind an [`AddressGuard`].
#[derive(Clone)]
pub(crate) struct GuardedResolver {
    system: GaiResolver,
    guard: Arc<AddressGuard>,
}

impl GuardedResolver {
    pub(crate) fn new(guard: Arc<AddressGuard>) -> Self {
        GuardedResolver { system: GaiResolver::new(), guard }
    }
}

impl Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        self.system.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let host = name.as_str().to_owned();
        let resolving = self.system.call(name);
        let guard = Arc::clone(&self.guard);
        Box::pin(async move {
            let allowed = guard.filter(&host, resolving.await?);
            if allowed.is_empty() {
                let why = match guard.only {
                    None => NotAllowed::Nearer,
                    Some(_) => NotAllowed::NotPublic,
                };
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            Ok(allowed.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_table() {
        let rows = [
            ("20.190.151.1", Reach::Public),
            ("2603:1027:1:158::1", Reach::Public),
            ("10.1.2.3", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("172.32.0.1", Reach::Public),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("100.128.0.1", Reach::Public),
            ("198.18.0.1", Reach::Private),
            ("fd00::1", Reach::Private),
            ("fec0::1", Reach::Private),
            ("169.254.169.254", Reach::LinkLocal),
            ("fe80::1", Reach::LinkLocal),
            ("127.0.0.1", Reach::Loopback),
            ("127.255.0.9", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("0.0.0.0", Reach::Never),
            ("::", Reach::Never),
            ("224.0.0.1", Reach::Never),
            ("255.255.255.255", Reach::Never),
            ("240.0.0.1", Reach::Never),
            ("203.0.113.9", Reach::Never),
            ("ff02::1", Reach::Never),
            ("4000::1", Reach::Never),
            ("::ffff:169.254.169.254", Reach::LinkLocal),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("::127.0.0.1", Reach::Loopback),
            ("64:ff9b::a9fe:a9fe", Reach::LinkLocal),
            ("64:ff9b:1::10.0.0.1", Reach::Private),
            ("2002:a9fe:a9fe::1", Reach::LinkLocal),
            ("2002:7f00:1::", Reach::Loopback),
            ("64:ff9b::20.190.151.1", Reach::Public),
        ];
        for (text, reach) in rows {
            assert_eq!(Reach::of(text.parse().expect("an address")), reach, "{text}");
        }
    }

    #[test]
    fn a_guard_of_scopes_lets_no_other_address_through_whatever_the_name() {
        let resolved = |text: &str| [SocketAddr::new(text.parse().expect("an address"), 443)].into_iter();
        let public = AddressGuard::only(&[Reach::Public]);
        assert_eq!(public.filter("hooks.example", resolved("20.190.151.1")).len(), 1);
        let near = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "fd00::1", "::ffff:10.0.0.1", "0.0.0.0"];
        for address in near {
            assert!(public.filter("hooks.example", resolved(address)).is_empty(), "{address}");
            assert!(public.filter("", resolved(address)).is_empty(), "{address}");
        }
        let own = AddressGuard::only(&[Reach::Public, Reach::Private, Reach::Loopback]);
        assert_eq!(own.filter("hooks.corp", resolved("10.0.0.1")).len(), 1);
        for never in ["169.254.169.254", "0.0.0.0", "224.0.0.1"] {
            assert!(own.filter("hooks.corp", resolved(never)).is_empty(), "{never}");
        }
    }

    #[test]
    fn a_public_authority_leads_nowhere_near() {
        let guard = AddressGuard::new("login.example");
        let resolved = |text: &str| [SocketAddr::new(text.parse().expect("an address"), 443)].into_iter();
        assert_eq!(guard.filter("login.example", resolved("20.190.151.1")).len(), 1);
        for near in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "fd00::1", "::ffff:10.0.0.1"] {
            assert!(guard.filter("keys.example", resolved(near)).is_empty(), "{near}");
        }
        assert_eq!(guard.filter("keys.example", resolved("20.190.151.2")).len(), 1);
    }

    #[test]
    fn a_private_authority_reaches_its_own_kind_only() {
        let guard = AddressGuard::new("login.corp");
        let resolved = |text: &str| [SocketAddr::new(text.parse().expect("an address"), 443)].into_iter();
        assert!(guard.filter("keys.corp", resolved("10.0.0.2")).is_empty(), "not before it is known");
        assert_eq!(guard.filter("login.corp", resolved("10.0.0.1")).len(), 1);
        assert_eq!(guard.filter("keys.corp", resolved("10.0.0.2")).len(), 1);
        for other in ["127.0.0.1", "169.254.169.254", "0.0.0.0"] {
            assert!(guard.filter("keys.corp", resolved(other)).is_empty(), "{other}");
        }
        // A second, public address makes it public again.
        let both =
            ["10.0.0.1", "20.0.0.1"].map(|text| SocketAddr::new(text.parse().expect("an address"), 443));
        guard.filter("login.corp", both.into_iter());
        assert!(guard.filter("keys.corp", resolved("10.0.0.2")).is_empty());
    }
}
