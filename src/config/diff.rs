//! Changes that a reload cannot apply while the daemon runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use super::sections::{Config, Listener};

/// Returns the sections of the new configuration that need a restart: the sockets, the store's address and
/// the sinks of the audit log. If the list is empty, the whole configuration can be applied.
pub fn needs_restart(running: &Config, new: &Config) -> Vec<&'static str> {
    let (old_listen, new_listen) = (&running.listen, &new.listen);
    [
        ("store", running.store.backend != new.store.backend),
        ("listen.public.address", old_listen.public.address != new_listen.public.address),
        ("listen.public.tls", old_listen.public.tls.is_some() != new_listen.public.tls.is_some()),
        ("listen.issuer", old_listen.issuer != new_listen.issuer),
        ("listen.local", sockets(&old_listen.local) != sockets(&new_listen.local)),
        ("listen.admin", sockets(&old_listen.admin) != sockets(&new_listen.admin)),
        ("listen.ops.address", old_listen.ops.address != new_listen.ops.address),
        ("listen.ops.tls", old_listen.ops.tls.is_some() != new_listen.ops.tls.is_some()),
        ("store.journal", running.store.journal != new.store.journal),
        ("sealing.keyring", running.sealing != new.sealing),
        ("log.format", running.log.format != new.log.format),
        ("audit", running.audit != new.audit),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}

/// A listener without its TLS files, whose paths may change, and without what it accepts.
#[derive(PartialEq, Eq)]
enum Socket<'a> {
    Unix(&'a Path, u32),
    Tcp(SocketAddr, bool),
}

/// Returns what cannot change about listeners: their addresses, and which of them have TLS.
fn sockets(listeners: &[Listener]) -> Vec<Socket<'_>> {
    listeners
        .iter()
        .map(|listener| match listener {
            Listener::Unix { path, mode, .. } => Socket::Unix(path, *mode),
            Listener::Tcp { address, tls, .. } => Socket::Tcp(*address, tls.is_some()),
        })
        .collect()
}

/// Returns the names of the sections that differ, for the log line of a reload. It does not compare the
/// content of files.
pub fn changed_sections(running: &Config, new: &Config) -> Vec<String> {
    let mut changed: Vec<String> = [
        ("store", running.store != new.store),
        ("listen", running.listen != new.listen),
        ("outbound", running.outbound != new.outbound),
        ("pages", running.pages != new.pages),
        ("limits", running.limits != new.limits),
        ("log", running.log != new.log),
    ]
    .into_iter()
    .filter(|(_, is_other)| *is_other)
    .map(|(name, _)| name.to_owned())
    .collect();
    changed.extend(members("apps", &running.apps, &new.apps));
    changed.extend(members("issuers", &running.issuers, &new.issuers));
    changed.extend(members("callers", &running.callers, &new.callers));
    changed.extend(members("admins", &running.admins, &new.admins));
    changed
}

fn members<T: PartialEq>(
    section: &str,
    running: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
) -> Vec<String> {
    let names: BTreeSet<&String> = running.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter(|name| running.get(*name) != new.get(*name))
        .map(|name| format!("{section}.{name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_cannot_change_live() {
        let running = Config::default();
        assert_eq!(needs_restart(&running, &running), [""; 0]);
        let mut new = running.clone();
        new.limits.lease *= 2;
        new.store.serve_cached_for *= 2;
        assert_eq!(needs_restart(&running, &new), [""; 0]);
        new.listen.ops.address.set_port(1);
        new.listen.local.pop();
        assert_eq!(needs_restart(&running, &new), ["listen.local", "listen.ops.address"]);
    }
}
