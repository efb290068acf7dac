//! What is measured, a row each.

/// How a row's client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Loopback TCP.
    Tcp,
    /// A Unix socket.
    Unix,
    /// TLS without a client certificate.
    Tls,
    /// TLS with a client certificate.
    Mtls,
}

/// What a row's client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// The native API, with an API key.
    Native,
    /// The native API; the transport says who asks.
    NativeOfPeer,
    /// Managed identity, as Azure's clients ask.
    ManagedIdentity,
    /// The paths of Vault's plugin.
    Vault,
}

/// One row.
pub struct Row {
    pub name: &'static str,
    pub over: Over,
    pub asks: Asks,
    pub connections: usize,
    /// The ratio to bare hyper that is wanted.
    pub goal: f64,
    /// Whether the latency at half of saturation is measured, too.
    pub latency: bool,
}

const fn native(name: &'static str, connections: usize) -> Row {
    Row { name, over: Over::Tcp, asks: Asks::Native, connections, goal: 0.85, latency: connections == 64 }
}

/// All rows.
pub const ROWS: &[Row] = &[
    native("TCP, 1 connection", 1),
    native("TCP, 64 connections", 64),
    native("TCP, 256 connections", 256),
    Row {
        name: "Unix socket, 64 connections",
        over: Over::Unix,
        asks: Asks::NativeOfPeer,
        connections: 64,
        goal: 0.75,
        latency: true,
    },
    Row { over: Over::Tls, ..native("TLS, 64 connections", 64) },
    Row {
        name: "mTLS, 64 connections",
        over: Over::Mtls,
        asks: Asks::NativeOfPeer,
        connections: 64,
        goal: 0.85,
        latency: true,
    },
    Row {
        asks: Asks::ManagedIdentity,
        goal: 0.80,
        latency: false,
        ..native("managed identity, 64 connections", 64)
    },
    Row { asks: Asks::Vault, goal: 0.80, latency: false, ..native("Vault, 64 connections", 64) },
];
