//! The source of a request, as a record names it.

use std::net::IpAddr;

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A user of this machine.
    Unix {
        /// The user's number.
        uid: u32,
    },
    /// The address of a TCP peer.
    Tcp(IpAddr),
}

impl Source {
    /// Its name: `unix` or `tcp`.
    pub fn kind(self) -> &'static str {
        match self {
            Source::Unix { .. } => "unix",
            Source::Tcp(_) => "tcp",
        }
    }

    /// The user, of a Unix peer.
    pub fn uid(self) -> Option<u32> {
        match self {
            Source::Unix { uid } => Some(uid),
            Source::Tcp(_) => None,
        }
    }

    /// The address, of a TCP peer.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Source::Unix { .. } => None,
            Source::Tcp(address) => Some(address),
        }
    }
}
