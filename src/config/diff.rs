//! Changes that a reload cannot apply while the daemon runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use super::sections::{Config, Listener};

/// Returns the sections of the new configuration that cannot be put in force before a restart, and without
/// which the rest must not be: the store, the keyring, and the sinks of the audit log.
pub fn cannot_change(running: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("store", running.store.backend != new.store.backend),
        ("store.journal", running.store.journal != new.store.journal),
        ("sealing.keyring", running.sealing != new.sealing),
        ("audit", running.audit != new.audit),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}

/// Leaves what only a restart opens as it runs, and returns its names: the sockets with all that belongs to
/// them, and the form of the log. The rest of a new configuration does not depend on them, and must not wait:
/// a rule may be taken away on the day after a listener was added.
pub fn leave_for_a_restart(running: &Config, new: &mut Config) -> Vec<&'static str> {
    let (old, listen) = (&running.listen, &mut new.listen);
    let mut left = Vec::new();
    if (old.public.address, old.public.tls.is_some()) != (listen.public.address, listen.public.tls.is_some())
    {
        listen.public = old.public.clone();
        left.push("listen.public");
    }
    if old.issuer != listen.issuer {
        listen.issuer.clone_from(&old.issuer);
        left.push("listen.issuer");
    }
    for (name, old, listeners) in
        [("listen.local", &old.local, &mut listen.local), ("listen.admin", &old.admin, &mut listen.admin)]
    {
        if sockets(old) != sockets(listeners) {
            // (What belongs to no socket, such as what a listener accepts, is the new one's.)
            let new = std::mem::take(listeners);
            let same =
                |one: &Listener| new.iter().find(|new| socket(new) == socket(one)).unwrap_or(one).clone();
            *listeners = old.iter().map(same).collect();
            left.push(name);
        }
    }
    if (old.ops.address, old.ops.tls.is_some()) != (listen.ops.address, listen.ops.tls.is_some()) {
        listen.ops = old.ops.clone();
        left.push("listen.ops");
    }
    if running.log.format != new.log.format {
        new.log.format = running.log.format;
        left.push("log.format");
    }
    left
}

/// A listener without its TLS files, whose paths may change, and without what it accepts.
#[derive(PartialEq, Eq)]
enum Socket<'a> {
    Unix(&'a Path, u32),
    Tcp(SocketAddr, bool),
}

/// Returns what cannot change about listeners: their addresses, and which of them have TLS.
fn sockets(listeners: &[Listener]) -> Vec<Socket<'_>> {
    listeners.iter().map(socket).collect()
}

fn socket(listener: &Listener) -> Socket<'_> {
    match listener {
        Listener::Unix { path, mode, .. } => Socket::Unix(path, *mode),
        Listener::Tcp { address, tls, .. } => Socket::Tcp(*address, tls.is_some()),
    }
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
        ("traces", running.traces != new.traces),
    ]
    .into_iter()
    .filter(|(_, is_other)| *is_other)
    .map(|(name, _)| name.to_owned())
    .collect();
    changed.extend(members("apps", &running.apps, &new.apps));
    changed.extend(members("issuers", &running.issuers, &new.issuers));
    changed.extend(members("callers", &running.callers, &new.callers));
    changed.extend(members("admins", &running.admins, &new.admins));
    changed.extend(members("webhooks", &running.webhooks, &new.webhooks));
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
    use crate::domain::auth_method::{AuthMethod, AuthMethods};

    #[test]
    fn names_what_cannot_change_live() {
        let running = Config::default();
        assert_eq!(cannot_change(&running, &running), [""; 0]);
        let mut new = running.clone();
        new.limits.lease *= 2;
        new.store.serve_cached_for *= 2;
        new.listen.local.pop();
        assert_eq!(cannot_change(&running, &new), [""; 0]);
        new.sealing.keyring.push("other");
        new.store.journal = Some("journal".into());
        assert_eq!(cannot_change(&running, &new), ["store.journal", "sealing.keyring"]);
    }

    #[test]
    fn sockets_stay_as_they_run_and_the_rest_counts() {
        let running = Config::default();
        let mut same = running.clone();
        same.limits.lease *= 2;
        let wanted = same.clone();
        assert_eq!(leave_for_a_restart(&running, &mut same), [""; 0]);
        assert!(same == wanted, "nothing was put back");
        let mut new = wanted.clone();
        new.listen.public.address.set_port(1);
        new.listen.public.base_url = "https://other.example".to_owned();
        new.listen.issuer = Some("https://other.example".to_owned());
        new.listen.local.pop();
        let another = new.listen.local.first().expect("one is left").clone();
        new.listen.admin.push(another);
        new.listen.ops.address.set_port(1);
        let left = leave_for_a_restart(&running, &mut new);
        assert_eq!(left, ["listen.public", "listen.issuer", "listen.local", "listen.admin", "listen.ops"]);
        assert!(new == wanted, "sockets as they run, and the other limit");
    }

    #[test]
    fn what_a_listener_accepts_counts_beside_one_that_waits_for_a_restart() {
        let at = |port, accept| Listener::Tcp {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            tls: None,
            accept,
        };
        let unix = |accept| Listener::Unix { path: "/run/local.sock".into(), mode: 0o666, accept };
        let keys: AuthMethods = [AuthMethod::ApiKeys].into_iter().collect();
        let all = AuthMethods::all();
        let mut running = Config::default();
        running.listen.local = vec![unix(all), at(1, all), at(2, all)];
        let left = |listeners: Vec<Listener>| {
            let mut new = running.clone();
            new.listen.local = listeners;
            let left = leave_for_a_restart(&running, &mut new);
            (left, changed_sections(&running, &new), new.listen.local)
        };
        // One more, before and behind those that stay, and one less: each that stays has its new settings.
        let (wait, live) = (vec!["listen.local"], vec!["listen".to_owned()]);
        let as_wanted = vec![unix(keys), at(1, keys), at(2, all)];
        let added = left(vec![at(3, all), unix(keys), at(1, keys), at(2, all), at(4, keys)]);
        assert_eq!(added, (wait.clone(), live.clone(), as_wanted));
        let fewer = left(vec![at(1, keys), unix(keys)]);
        assert_eq!(fewer, (wait.clone(), live.clone(), vec![unix(keys), at(1, keys), at(2, all)]));
        // What waits is not told as changed.
        let one_more = left(vec![unix(all), at(1, all), at(2, all), at(3, keys)]);
        assert_eq!(one_more, (wait, vec![], running.listen.local.clone()));
        let nothing_waits = left(vec![unix(all), at(1, keys), at(2, all)]);
        assert_eq!(nothing_waits, (vec![], live, vec![unix(all), at(1, keys), at(2, all)]));
    }
}
