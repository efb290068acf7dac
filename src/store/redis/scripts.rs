//! What must happen in one step, inside Redis. Each script's keys share a slot, so each runs in a Cluster
//! too; each says the same when it is repeated, so an answer that was lost may be asked for again.

use std::sync::LazyLock;
use std::time::Duration;

use ::redis::Script;

/// Stores a record if the stored revision is the expected one and nobody else holds the lease. Revisions are
/// compared as bytes (see [`super::super::record`]). Answers 1 when it is stored, 0 when the revision is
/// another one, 2 when the lease is somebody else's, -1 when what is stored is no record of ours, which is
/// never overwritten.
///
/// Keys: record, lease, intent, floor. Arguments: the expected revision (empty: no record), the new one, what
/// a record begins with, the record, the nonce that the lease must have if somebody holds it (empty: it may
/// be anybody's), 1 when another grant takes the place of the one that is there, the sign-in's number in
/// digits, the channel and what to tell on it.
///
/// What was begun is settled when it was begun under this very lease, or when the grant it was begun with is
/// replaced; not while somebody holds the lease, though, who may be about to use the new one.
///
/// A repeated commit writes what is stored again: so whoever waits for replicas after it waits for this one,
/// whichever connection brought it first. Not its own bytes: it may have been sealed anew meanwhile, by a key
/// that is to stay.
///
/// The lease goes before the record is stored: a Redis that is full refuses a script's first write unless
/// that frees memory, and lets those after it pass. So what was rotated under a lease is stored all the same.
/// All of it is one step, to whoever looks and to replicas; and what was begun stays noted until after, so
/// that nothing rests on the order.
///
/// A change that cannot be told (an ACL of an older version) must not make a stored record look like an
/// error: `pcall`.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local head = redis.call('GETRANGE', KEYS[1], 0, 42)
if head ~= '' and (#head ~= 43 or string.sub(head, 1, 3) ~= ARGV[3]) then return -1 end
local revision = string.sub(head, 4)
local holder = redis.call('GET', KEYS[2])
if revision == ARGV[2] then
    if not holder or holder == ARGV[5] then redis.call('DEL', KEYS[2]) end
    redis.call('SET', KEYS[1], redis.call('GET', KEYS[1]))
    return 1
end
if ARGV[5] ~= '' and holder and holder ~= ARGV[5] then return 2 end
if revision ~= ARGV[1] then return 0 end
if revision == '' and tonumber(ARGV[7]) < tonumber(string.match(redis.call('GET', KEYS[4]) or '', '^%d+') or '1') then return 0 end
if not holder or holder == ARGV[5] then
    redis.call('DEL', KEYS[2])
    holder = false
end
redis.call('SET', KEYS[1], ARGV[4])
local begun = redis.call('GET', KEYS[3])
local ours = begun and ARGV[5] ~= '' and string.sub(begun, 1, 16) == ARGV[5]
if begun and (ours or (ARGV[6] == '1' and not holder)) then redis.call('DEL', KEYS[3]) end
redis.pcall('PUBLISH', ARGV[8], ARGV[9])
return 1
",
    )
});

/// Destroys a record that descends from the sign-in that is meant, and raises the floor. Answers 1 when there
/// was one, 2 when there is one of another sign-in, and nothing changed, 0 when there is none.
///
/// A lease that is held stays, and so does what was begun with it; without one, what was begun does not
/// matter any more. The floor is written each time: so whoever waits for replicas after a repeated delete
/// waits for this one. What stays in doubt and is of no more use to anybody goes when the floor does.
///
/// Keys: record, lease, intent, floor. Arguments: the sign-in that is meant, what a record begins with, for
/// how long the floor is kept in milliseconds, 1 when what has begun is cut off, the channel and what to tell
/// on it.
pub(super) static DELETE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local function number(bytes)
    local sum = 0
    for at = 1, #bytes do sum = sum * 256 + string.byte(bytes, at) end
    return sum
end
local head = redis.call('GETRANGE', KEYS[1], 0, 42)
local floor, cut = string.match(redis.call('GET', KEYS[4]) or '', '^(%d+) (%d+)$')
floor = math.max(tonumber(floor or '1'), number(string.sub(ARGV[1], 1, 8)) + 1)
cut = tonumber(cut or '0')
local found = 0
if head ~= '' then
    if #head == 43 and string.sub(head, 1, 3) == ARGV[2] then
        if string.sub(head, 4, 19) ~= ARGV[1] then return 2 end
        floor = math.max(floor, number(string.sub(head, 20, 27)) + 1)
    end
    found = 1
    redis.call('DEL', KEYS[1])
    local begun = redis.call('GET', KEYS[3])
    if begun and redis.call('GET', KEYS[2]) then
        redis.call('SET', KEYS[3], begun, 'PX', ARGV[3])
    elseif begun then
        redis.call('DEL', KEYS[3])
    end
end
floor = math.min(floor, 9007199254740991)
if ARGV[4] == '1' then cut = floor end
redis.call('SET', KEYS[4], string.format('%.0f %.0f', floor, cut), 'PX', ARGV[3])
redis.pcall('PUBLISH', ARGV[5], ARGV[6])
return found
",
    )
});

/// Takes a lease, and notes that something is begun with it, and of which sign-in the record is. Answers
/// `{1, unsettled}`, or `{0, milliseconds left}` when it is somebody else's. The note is the nonce, 1 or 0,
/// and the sign-in: 1 when one before, of that sign-in too, was never settled: so a repeated take says the
/// same again. It is the record that says which sign-in, not whoever asks: one who has read an older record
/// must not overwrite the doubt about the one that is there.
///
/// Keys: lease, intent, the record if there is one to it. Arguments: the nonce, the time to live in
/// milliseconds.
pub(super) static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[1])} end
local begun = redis.call('GET', KEYS[2])
local about = KEYS[3] and redis.call('GETRANGE', KEYS[3], 3, 18) or ''
local unsettled = '0'
if begun and string.sub(begun, 18) == about then
    if string.sub(begun, 1, 16) == ARGV[1] then unsettled = string.sub(begun, 17, 17) else unsettled = '1' end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1] .. unsettled .. about)
return {1, tonumber(unsettled)}
",
    )
});

/// Prolongs a lease. Answers 1, or 0 when it is not ours.
///
/// Keys: lease. Arguments: the nonce, the time to live in milliseconds.
pub(super) static EXTEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
",
    )
});

/// Gives a lease back, if it is ours. What one before us began is not settled by that, whatever became of
/// ours.
///
/// Keys: lease, intent. Arguments: the nonce, 1 when what was begun is settled, the channel and what to tell
/// on it (empty: nobody waits for it).
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local begun = redis.call('GET', KEYS[2])
local ours = begun and string.sub(begun, 1, 16) == ARGV[1]
if ARGV[2] == '1' and ours and string.sub(begun, 17, 17) == '0' then redis.call('DEL', KEYS[2]) end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if ARGV[4] ~= '' then redis.pcall('PUBLISH', ARGV[3], ARGV[4]) end
return 1
",
    )
});

/// What is due of a shard, with when it was used: name, due, used (empty when that is not known), and so on.
///
/// Keys: due, used. Arguments: the instant in milliseconds, how many at the most.
pub(super) static DUE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local found = {}
for at = 1, #due, 2 do
    found[#found + 1] = due[at]
    found[#found + 1] = due[at + 1]
    found[#found + 1] = redis.call('ZSCORE', KEYS[2], due[at]) or ''
end
return found
",
    )
});

/// Puts a record of whatever kind in its own place, sealed anew, if it still is the expected one; it expires
/// when it did. Answers 1 when it is or already was replaced, 0 otherwise. A repeated one writes again, for
/// whoever waits for replicas after it.
///
/// Arguments: the expected bytes, the new ones.
pub(super) static RESEAL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local stored = redis.call('GET', KEYS[1])
if stored ~= ARGV[1] and stored ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
",
    )
});

/// Replaces a pending record if it is the expected one, or makes it where none is expected and none is there.
/// Answers 1 when it is replaced or already was, 0 otherwise.
///
/// Arguments: the expected bytes (no sealed value is empty: that is none), the new ones, their time to live
/// in milliseconds.
pub(super) static SWAP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local stored = redis.call('GET', KEYS[1]) or ''
if stored == ARGV[2] then return 1 end
if stored ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
",
    )
});

/// Counts an entry among those of its owner, unless there are too many of others, of the owner or of the
/// entry's group. Answers nothing when it counts. Else 0 where the owner has too many, 1 where the group has,
/// and when the first of them ends. What has ended is taken away first, a few at a time: each call adds one
/// at the most.
///
/// Without ZCARD, which an ACL of an earlier version lacks: whether there is one at the place of the last
/// allowed says as much.
///
/// Keys: what counts. Arguments: the entry, until when in milliseconds, the instant of now, how many others
/// of the owner are too many, what the entries of the group begin with (empty: there is no group), how many
/// others of it are too many.
pub(super) static COUNT_IN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[3], 'LIMIT', 0, 100)
for _, entry in ipairs(ended) do redis.call('ZREM', KEYS[1], entry) end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    local after = '(' .. ARGV[3]
    local last = redis.call('ZRANGEBYSCORE', KEYS[1], after, '+inf', 'LIMIT', tonumber(ARGV[4]) - 1, 1)
    if last[1] then
        return {0, tonumber(redis.call('ZRANGEBYSCORE', KEYS[1], after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2])}
    end
    if ARGV[5] ~= '' then
        local all = redis.call('ZRANGEBYSCORE', KEYS[1], after, '+inf', 'WITHSCORES')
        local others, first = 0, nil
        for at = 1, #all, 2 do
            if string.sub(all[at], 1, #ARGV[5]) == ARGV[5] then
                others = others + 1
                first = first or tonumber(all[at + 1])
            end
        end
        if first and others >= tonumber(ARGV[6]) then return {1, first} end
    end
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return {}
",
    )
});

/// A time to live in Redis's milliseconds; none is not allowed, and one is over at once too.
pub(super) fn millis(ttl: Duration) -> u64 {
    // Redis refuses what does not fit a signed 64-bit instant.
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 52)
}

#[cfg(test)]
mod tests {
    use crate::store::record::{REVISION_END, REVISION_START};

    #[test]
    fn the_numbers_in_the_script_are_the_record_s() {
        // Lua counts from 1 and includes the end.
        assert_eq!((REVISION_START + 1, REVISION_END - 1, REVISION_END), (4, 42, 43));
    }
}
