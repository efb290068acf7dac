//! Steps that must be atomic, inside Redis. Each script's keys share a slot, so each runs in a Cluster too.
//! Each gives the same answer when it is repeated, so it may be repeated after its answer was lost.

use std::sync::LazyLock;
use std::time::Duration;

use ::redis::Script;

/// The end of a script that may tell something: adds a notice to those beside the record, if there is one.
/// Beyond so many of them the oldest goes: nobody has taken them away for long.
///
/// It is called by `pcall`: a record that is stored must not look unstored because of its notice. Each script
/// answers 3 if a change is made whose notice could not be written.
///
/// Without ZCARD and ZREVRANGE, which an ACL of an earlier version lacks: so there is a count.
const TELL: &str = r"
local function tell(outbox, count, notice)
    if not outbox or not notice or notice == '' then return end
    local number = tonumber(redis.call('GET', count) or '0') + 1
    redis.call('SET', count, string.format('%.0f', number))
    redis.call('ZADD', outbox, number, notice)
    local first = redis.call('ZRANGEBYSCORE', outbox, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if first[2] and number - tonumber(first[2]) >= 100000 then redis.call('ZREM', outbox, first[1]) end
end
";

/// The answer of a script whose change is made, and whose notice could not be written.
pub(super) const UNTOLD: i64 = 3;

/// A script that may tell something.
fn telling(code: &str) -> Script {
    Script::new(&format!("{TELL}{code}"))
}

/// Stores a record if the stored revision is the expected one and nobody else holds the lease. Revisions are
/// compared as bytes (see [`super::super::record`]). Answers 1 if it is stored, 0 if the revision is another
/// one, 2 if another holds the lease, -1 if the stored value is no record of ours, which is never
/// overwritten.
///
/// Keys: record, lease, intent, floor; and where there is a notice, those beside the record and their count.
/// Arguments: the expected revision (empty: no record), the new one, the first bytes of a record, the record,
/// the nonce that a held lease must have (empty: any), 1 if the commit replaces the grant, the sign-in's
/// number in digits, the channel and the message for it, the notice (or nothing).
///
/// The intent is settled if it was written with this very lease, or if the commit replaces its grant; but not
/// while another holds the lease, who may be about to use the new grant.
///
/// A repeated commit writes the stored record again. So a `WAIT` after it waits for this record, whichever
/// connection brought it first. It does not write its own bytes: the record may have been resealed meanwhile
/// with a newer key.
///
/// The lease is deleted before the record is stored. A full Redis refuses a script's first write unless that
/// frees memory, and accepts later ones: so a record that was rotated under a lease is stored all the same.
/// Readers and replicas see the script as one step. The intent is deleted last, so nothing depends on the
/// order.
///
/// A message that may not be sent (an ACL of an older version) must not make a stored record look like an
/// error: `pcall`.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    telling(
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
if revision == '' then
    local floor = string.match(redis.call('GET', KEYS[4]) or '', '^%d+') or '1'
    if tonumber(ARGV[7]) < tonumber(floor) then return 0 end
end
if not holder or holder == ARGV[5] then
    redis.call('DEL', KEYS[2])
    holder = false
end
redis.call('SET', KEYS[1], ARGV[4])
local begun = redis.call('GET', KEYS[3])
local ours = begun and ARGV[5] ~= '' and string.sub(begun, 1, 16) == ARGV[5]
if begun and (ours or (ARGV[6] == '1' and not holder)) then redis.call('DEL', KEYS[3]) end
local told = pcall(tell, KEYS[5], KEYS[6], ARGV[10])
redis.pcall('PUBLISH', ARGV[8], ARGV[9])
return told and 1 or 3
",
    )
});

/// Destroys a record that descends from the sign-in that is meant, and raises the floor. Answers 1 if there
/// was one, 2 if there is one of another sign-in (nothing changed), 0 if there is none.
///
/// A held lease stays, and so does its intent; without a lease the intent does not matter any more. The floor
/// is written each time, so a `WAIT` after a repeated delete waits for this one. An intent that nobody
/// settles goes when the floor does.
///
/// Keys and notice as of [`COMMIT`]. Arguments: the sign-in that is meant, the first bytes of a record, how
/// long the floor is kept in milliseconds, 1 if unfinished sign-ins are cut off, the channel and the message
/// for it, the notice (or nothing).
pub(super) static DELETE: LazyLock<Script> = LazyLock::new(|| {
    telling(
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
if found == 1 and not pcall(tell, KEYS[5], KEYS[6], ARGV[7]) then found = 3 end
redis.pcall('PUBLISH', ARGV[5], ARGV[6])
return found
",
    )
});

/// Takes a lease and writes its intent. Answers `{1, unsettled, the record's first bytes}`, up to its
/// revision's last one, or `{0, milliseconds left, ""}` if another holds it. The intent is the nonce, 1 or 0,
/// and the sign-in of the record. It has a 1 if an earlier intent, of that sign-in too, was never settled, so
/// a repeated take gives the same answer. The sign-in is read from the record and is no argument: a caller
/// with an older record must not overwrite the intent about the present one.
///
/// Keys: lease, intent, the record if there is one to it. Arguments: the nonce, the time to live in
/// milliseconds.
pub(super) static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {0, redis.call('PTTL', KEYS[1]), ''} end
local begun = redis.call('GET', KEYS[2])
local head = KEYS[3] and redis.call('GETRANGE', KEYS[3], 0, 42) or ''
local about = string.sub(head, 4, 19)
local unsettled = '0'
if begun and string.sub(begun, 18) == about then
    if string.sub(begun, 1, 16) == ARGV[1] then unsettled = string.sub(begun, 17, 17) else unsettled = '1' end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1] .. unsettled .. about)
return {1, tonumber(unsettled), head}
",
    )
});

/// Prolongs a lease. Answers 1, or 0 if it is not ours.
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

/// Gives a lease back, if it is ours. That never settles an earlier holder's intent, whatever became of ours.
///
/// Keys: lease, intent. Arguments: the nonce, 1 if our intent is settled, the channel and the message for it
/// (empty: nobody waits).
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

/// The due connections of a shard, with their last use: name, due, used (empty if unknown), and so on.
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

/// Replaces a record of whatever kind by its resealed bytes, if it still is the expected one. Its expiry
/// stays. Answers 1 if it is or already was replaced, 0 otherwise. A repeated call writes again, for a `WAIT`
/// after it.
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

/// Replaces a pending record if it is the expected one, or makes it if none is expected and none exists.
/// Answers 1 if it is replaced or already was, 0 otherwise.
///
/// Keys: the record; and where there is a notice, as of [`COMMIT`]. Arguments: the expected bytes (no sealed
/// value is empty: that is none), the new ones, their time to live in milliseconds, the notices.
pub(super) static SWAP: LazyLock<Script> = LazyLock::new(|| {
    telling(
        r"
local stored = redis.call('GET', KEYS[1]) or ''
if stored == ARGV[2] then return 1 end
if stored ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
local answer = 1
for at = 4, #ARGV do
    if not pcall(tell, KEYS[2], KEYS[3], ARGV[at]) then answer = 3 end
end
return answer
",
    )
});

/// Gives notices their places, for who has the lease. One that has a place keeps it. Answers how many got
/// one, or -1 if another has the lease.
///
/// Keys: notices by place, places by id, the last place, the lease. Arguments: the nonce; then for each
/// notice its id and its bytes.
pub(super) static PLACE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('GET', KEYS[4]) ~= ARGV[1] then return -1 end
local last = tonumber(redis.call('GET', KEYS[3]) or '0')
local placed = 0
for at = 2, #ARGV, 2 do
    if not redis.call('ZSCORE', KEYS[2], ARGV[at]) then
        last = last + 1
        placed = placed + 1
        redis.call('ZADD', KEYS[2], last, ARGV[at])
        redis.call('ZADD', KEYS[1], last, ARGV[at + 1])
    end
end
redis.call('SET', KEYS[3], string.format('%.0f', last))
return placed
",
    )
});

/// Forgets notices, for who has the lease. Answers how many, or -1 if another has the lease.
///
/// Keys: notices by place, places by id, the lease. Arguments: the nonce; then for each notice its place and
/// its id.
pub(super) static FORGET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return -1 end
local forgotten = 0
for at = 2, #ARGV, 2 do
    local there = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[at], ARGV[at])
    for _, notice in ipairs(there) do
        redis.call('ZREM', KEYS[1], notice)
        forgotten = forgotten + 1
    end
    redis.call('ZREM', KEYS[2], ARGV[at + 1])
end
return forgotten
",
    )
});

/// Takes a slot out of the set of those with notices, unless it was named again meanwhile.
///
/// Keys: the set. Arguments: the slot, when it was named.
pub(super) static UNSAY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local said = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not said or tonumber(said) ~= tonumber(ARGV[2]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
",
    )
});

/// Counts an entry among those of its owner, unless too many others count, of the owner or of the entry's
/// group. Answers nothing if it counts. Otherwise 0 if the owner has too many, 1 if the group has, and when
/// the first of them ends. Ended entries are removed first, a few at a time: each call adds one at most.
///
/// Without ZCARD, which an ACL of an earlier version lacks: a look at the place of the last allowed entry
/// tells as much.
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
        local first = redis.call('ZRANGEBYSCORE', KEYS[1], after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
        return {0, tonumber(first[2])}
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

/// A time to live in Redis' milliseconds. Zero is not allowed, and a millisecond is over at once too.
pub(super) fn millis(ttl: Duration) -> u64 {
    // Redis refuses an instant that does not fit 64 bits with a sign.
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
