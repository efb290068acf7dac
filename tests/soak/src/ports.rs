//! Ports that stay reserved while their process is away.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports are taken from here …
const FIRST: u16 = 12_000;
/// … on, so many: below the range from which the system gives out ports by itself, and all of five digits, so
/// that the proxies can write one over the other.
const MANY: u16 = 20_000;

/// A port that nobody listens on and that this process gives out once.
///
/// # Panics
/// When there is none, which means twenty thousand listeners.
pub fn lasting_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() * 61 % u32::from(MANY)).expect("smaller than the range");
    for _ in 0..MANY {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % MANY;
        let port = FIRST + (begin + step) % MANY;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free from {FIRST} on");
}
