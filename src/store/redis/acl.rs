//! The rights that the user of Redis needs. [`REDIS_COMMANDS`] is everything this store ever sends:
//!
//! ```text
//! user tokenward on >PASSWORD ~tokenward:* resetchannels &tokenward:* -@all +select +client|setname +role
//!   +get +getrange +set +getdel +del +exists +pttl +zadd +zrem +zscore +zrangebylex +zrangebyscore +evalsha
//!   +script|load +wait +publish +subscribe +scan +info
//! ```
//!
//! and at the nodes of a Cluster [`REDIS_CLUSTER_COMMANDS`] too: `+cluster|info +cluster|slots +asking`.

/// Every command that this store sends, in the spelling of Redis' ACLs, except AUTH, which every user may
/// send.
pub const REDIS_COMMANDS: &[&str] = &[
    "select",
    "client|setname",
    "role",
    "get",
    "getrange",
    "set",
    "getdel",
    "del",
    "exists",
    "pttl",
    "zadd",
    "zrem",
    "zscore",
    "zrangebylex",
    "zrangebyscore",
    "evalsha",
    "script|load",
    "wait",
    "publish",
    "subscribe",
    "scan",
    "info",
];

/// Commands that it sends to the nodes of a Cluster beside those.
pub const REDIS_CLUSTER_COMMANDS: &[&str] = &["cluster|info", "cluster|slots", "asking"];
