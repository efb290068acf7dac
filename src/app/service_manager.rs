//! The service manager that started the daemon, such as systemd with `Type=notify`: it is told that the
//! daemon serves, and then again and again that it lives (sd_notify(3), sd_watchdog_enabled(3)).
//!
//! The messages go by datagrams to the socket that `NOTIFY_SOCKET` names. Without the variable there is
//! nobody to tell. A message that cannot be sent harms nothing here: the manager acts on what it misses.

use std::collections::BTreeMap;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::domain::time::Clock;

/// The service manager, if there is one.
pub(super) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// How often it is told that the daemon lives: twice in the time after which it would act.
    pulse: Option<Duration>,
}

impl ServiceManager {
    /// The one that these variables name. `process` is this process's id.
    pub(super) fn of(variables: &BTreeMap<String, String>, process: u32) -> Self {
        let socket = variables.get("NOTIFY_SOCKET").and_then(|name| match connected(name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "the service manager's socket (NOTIFY_SOCKET) cannot be reached");
                None
            }
        });
        let number = |name: &str| variables.get(name)?.parse::<u64>().ok();
        let is_meant = variables.get("WATCHDOG_PID").is_none_or(|meant| *meant == process.to_string());
        let pulse = number("WATCHDOG_USEC").filter(|micros| is_meant && *micros > 0);
        Self { socket, pulse: pulse.map(|micros| Duration::from_micros(micros) / 2) }
    }

    /// The daemon serves.
    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    /// Tells it that the daemon lives, for as long as this is polled: timers fire only while the runtime
    /// does its work.
    pub(super) async fn keep_alive(&self, clock: &dyn Clock) {
        let Some(pulse) = self.pulse else { return std::future::pending().await };
        loop {
            self.tell("WATCHDOG=1");
            clock.sleep(pulse).await;
        }
    }

    fn tell(&self, what: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(what.as_bytes())
        {
            tracing::debug!(%error, what, "the service manager was not told");
        }
    }
}

/// A socket to that path, or to the abstract name after `@`. A manager that does not read delays nothing.
fn connected(name: &str) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> ServiceManager {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ServiceManager::of(&variables.collect(), 42)
    }

    #[test]
    fn a_manager_behind_an_abstract_name_is_told() {
        let name = format!("tokenward-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("bound");
        of(&[("NOTIFY_SOCKET", &format!("@{name}"))]).ready();
        let mut text = [0; 64];
        let length = manager.recv(&mut text).expect("a message");
        assert_eq!(&text[..length], b"READY=1");
    }

    #[test]
    fn a_pulse_is_for_this_process_only_and_half_of_the_time() {
        let pulse = |variables: &[(&str, &str)]| of(variables).pulse;
        assert_eq!(pulse(&[("WATCHDOG_USEC", "30000000")]), Some(Duration::from_secs(15)));
        assert_eq!(
            pulse(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "42")]),
            Some(Duration::from_secs(15))
        );
        assert_eq!(pulse(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "43")]), None);
        assert_eq!(pulse(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(pulse(&[("WATCHDOG_USEC", "soon")]), None);
        // Nobody to tell, and a socket that is not there: the daemon serves all the same.
        of(&[]).ready();
        of(&[("NOTIFY_SOCKET", "/nonexistent/notify")]).ready();
    }
}
