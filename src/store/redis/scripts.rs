//! What must happen in one step, inside Redis. Each script names one key, so each runs in a Cluster too; each says the
//! same when it is repeated, so an answer that was lost may be asked for again.

use std::sync::LazyLock;

use ::redis::Script;

/// Stores a record if the stored revision is the expected one. Revisions are compared as bytes (see
/// [`super::super::record`]). Answers 1 when it is stored, 0 when the revision is another one, -1 when what is stored
/// is no record of ours, which is never overwritten.
///
/// Arguments: the expected revision (empty: no record), the new one, what a record begins with, the record.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = redis.call('GETRANGE', KEYS[1], 0, 26)
if head ~= '' and (#head ~= 27 or string.sub(head, 1, 3) ~= ARGV[3]) then return -1 end
local revision = string.sub(head, 4)
if revision == ARGV[2] then return 1 end
if revision ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[4])
return 1
",
    )
});

/// Replaces a pending record if it is the expected one. Answers 1 when it is replaced or already was, 0 otherwise.
///
/// Arguments: the expected bytes, the new ones, their time to live in milliseconds.
pub(super) static SWAP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local stored = redis.call('GET', KEYS[1])
if stored == ARGV[2] then return 1 end
if stored ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
",
    )
});

#[cfg(test)]
mod tests {
    use crate::store::record::{REVISION_END, REVISION_START};

    #[test]
    fn the_numbers_in_the_script_are_the_record_s() {
        // Lua counts from 1 and includes the end.
        assert_eq!((REVISION_START + 1, REVISION_END - 1, REVISION_END), (4, 26, 27));
    }
}
