//! What the user of Redis must be allowed. [`REDIS_COMMANDS`] is everything this store ever sends:
//!
//! ```text
//! user tokenward on >PASSWORD ~tokenward:* resetchannels &tokenward:* -@all +select +client|setname +role +get
//!   +getrange +set +getdel +del +exists +pttl +zadd +zrem +zscore +zrangebylex +zrangebyscore +evalsha +script|load
//!   +wait +publish +subscribe +scan +info
//! ```
//!
//! and at the nodes of a Cluster [`REDIS_CLUSTER_COMMANDS`] too: `+cluster|info +cluster|slots +asking`.

/// Every command this store sends, in the spelling of Redis's ACLs; but for AUTH, which every user may say.
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

/// What it sends to the nodes of a Cluster beside that.
pub const REDIS_CLUSTER_COMMANDS: &[&str] = &["cluster|info", "cluster|slots", "asking"];
