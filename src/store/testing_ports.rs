//! Ports for tests that must know one before it is bound: what a configuration names, and what must be there
//! again after a restart.
//!
//! They lie below the range from which the system gives out ports by itself, so that no connection takes one
//! meanwhile, and each is held by a lock on a file until this process ends, so that no other test does, of
//! whatever process.

use parking_lot::Mutex;
use std::fs::File;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where they begin, and how many there are. A node of a Cluster has a second port that is so much higher.
const FIRST: u32 = 10_100;
const MANY: u32 = 11_900;
const BUS: u16 = 10_000;

static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that is this process' own until it ends.
pub fn free_port() -> u16 {
    next(hold)
}

/// The same for a node of a Cluster: the port on which it talks to the others is its own too.
pub(super) fn free_node_port() -> u16 {
    next(|port| hold(port) && hold(port + BUS))
}

fn next(takes: impl Fn(u16) -> bool) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(61);
    for _ in 0..MANY {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + begin.wrapping_add(step) % MANY).expect("small");
        if takes(port) {
            return port;
        }
    }
    panic!("no port of {MANY} is free");
}

fn hold(port: u16) -> bool {
    let folder = std::env::temp_dir().join("tokenward-test-ports");
    let _there = std::fs::create_dir_all(&folder);
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(port.to_string()));
    // Where the folder is another user's, there is only the look whether the port is free.
    let is_ours = file.as_ref().map_or(true, |file| file.try_lock().is_ok())
        && TcpListener::bind(("127.0.0.1", port)).is_ok();
    if let (true, Ok(file)) = (is_ours, file) {
        HELD.lock().push(file);
    }
    is_ours
}
