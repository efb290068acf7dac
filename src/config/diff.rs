//! What a reload cannot change while the daemon runs.

use super::sections::Config;

/// The sections of the new configuration that take effect only after a restart: the sockets, the store's address and the
/// place of the audit log. Empty: the new configuration can be taken up as a whole.
pub fn needs_restart(running: &Config, new: &Config) -> Vec<&'static str> {
    let (old_listen, new_listen) = (&running.listen, &new.listen);
    [
        ("store", running.store.backend != new.store.backend),
        ("listen.public.address", old_listen.public.address != new_listen.public.address),
        ("listen.public.tls", old_listen.public.tls.is_some() != new_listen.public.tls.is_some()),
        ("listen.local", old_listen.local != new_listen.local),
        ("listen.admin", old_listen.admin != new_listen.admin),
        ("listen.ops", old_listen.ops != new_listen.ops),
        ("log.format", running.log.format != new.log.format),
        ("audit.path", running.audit != new.audit),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
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
        assert_eq!(needs_restart(&running, &new), ["listen.local", "listen.ops"]);
    }
}
