#!/usr/bin/env bash
# Holds the ACL file of deploy/compose up against the commands that the store sends, then starts a Redis with it and shows that
# those pass and others do not.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'if [ -n "${redis_pid:-}" ]; then kill "$redis_pid" 2>/dev/null; wait "$redis_pid" 2>/dev/null; fi; rm -rf "$work"' EXIT

cp deploy/compose/prepare.sh deploy/compose/redis.acl deploy/compose/tokenward.toml "$work"
"$work/prepare.sh"
cat "$work/secrets/redis/redis.acl" >"$work/users.acl"

# The list in the code, as ACL words, and the list in the file.
sent=$(sed -n '/pub const REDIS_COMMANDS/,/];/p' src/store/redis/acl.rs | grep -oE '"[a-z|]+"' | tr -d '"' | LC_ALL=C sort)
granted=$(grep '^user tokenward ' "$work/users.acl" | grep -oE '\+[a-z|]+' | tr -d '+' | LC_ALL=C sort)
if [ -z "$sent" ] || [ "$sent" != "$granted" ]; then
    echo "the store's commands (<) and the ACL file's (>) differ:"
    diff <(echo "$sent") <(echo "$granted") || true
    exit 1
fi
start() {
    redis-server --port 0 --unixsocket "$work/redis.sock" --aclfile "$work/users.acl" --save '' --appendonly yes --appendfsync always \
        --dir "$work" >"$work/redis.log" 2>&1 &
    redis_pid=$!
    for _ in $(seq 100); do
        if redis-cli -s "$work/redis.sock" --no-auth-warning --user health --pass none PING 2>/dev/null | grep -q PONG; then return; fi
        sleep 0.1
    done
    cat "$work/redis.log"
    exit 1
}
start

password=$(cat "$work/secrets/tokenward/redis-password")
# One command as the daemon's user; its words are the arguments.
as_tokenward() {
    timeout 5 redis-cli -s "$work/redis.sock" --no-auth-warning --user tokenward --pass "$password" "$@" 2>&1 || true
}
passes() {
    local answer
    answer=$(as_tokenward "$@")
    if grep -qE 'NOPERM|ERR' <<<"$answer"; then
        echo "refused, should pass: $*: $answer"
        exit 1
    fi
}
refused() {
    local answer
    answer=$(as_tokenward "$@")
    if ! grep -qE "NOPERM|can't (access|run)" <<<"$answer"; then
        echo "passed, should be refused: $*: $answer"
        exit 1
    fi
}

passes SET tokenward:a 1 PX 60000 NX
passes GET tokenward:a
passes GETRANGE tokenward:a 0 1
passes EXISTS tokenward:a
passes GETDEL tokenward:a
passes DEL tokenward:a
passes ZADD tokenward:z 0 m
passes ZRANGEBYLEX tokenward:z - + LIMIT 0 10
passes ZREM tokenward:z m
passes SCAN 0 MATCH 'tokenward:*' COUNT 10
passes ROLE
passes WAIT 1 1
passes SELECT 1
passes CLIENT SETNAME tokenward
passes SCRIPT LOAD "redis.call('SET', KEYS[1], '1') return redis.call('GET', KEYS[1])"
script=$(as_tokenward SCRIPT LOAD "redis.call('SET', KEYS[1], '1') return redis.call('GET', KEYS[1])" | tail -n 1)
passes EVALSHA "$script" 1 tokenward:b
refused EVALSHA "$script" 1 other

refused GET other
refused SET other 1
refused PUBLISH other x
refused SUBSCRIBE other
refused SSUBSCRIBE other
refused PSUBSCRIBE '*'
refused KEYS '*'
refused FLUSHALL
refused CONFIG GET dir
refused DUMP tokenward:b
refused RENAME tokenward:b other
refused SCRIPT FLUSH
refused FUNCTION LIST
refused ACL LIST
refused CLIENT LIST
refused MONITOR
refused REPLICAOF no one
refused SHUTDOWN
refused EVAL 'return 1' 0
refused HGETALL tokenward:h
refused EXPIRE tokenward:b 1
forbidden=$(as_tokenward SCRIPT LOAD "return redis.call('KEYS', '*')" | tail -n 1)
refused EVALSHA "$forbidden" 0

as_other() { redis-cli -s "$work/redis.sock" --no-auth-warning "$@" 2>&1 || true; }
as_other GET tokenward:b | grep -q NOAUTH || { echo "the default user is let in"; exit 1; }
as_other --user health --pass none PING | grep -q PONG || { echo "the health user may not ping"; exit 1; }
as_other --user health --pass none GET tokenward:b | grep -q NOPERM || { echo "the health user may read"; exit 1; }
operator=$(cat "$work/secrets/redis/redis-operator-password")
as_other --user operator --pass "$operator" ACL LOAD | grep -q OK || { echo "the operator may not reload the ACL file"; exit 1; }
as_other --user operator --pass "$operator" GET tokenward:b | grep -q NOPERM || { echo "the operator may read"; exit 1; }

# What a script wrote is there after a crash (see the file's words on the default user).
both=$(as_tokenward SCRIPT LOAD "redis.call('SET', KEYS[1], '1') redis.call('SET', KEYS[2], '2') return 1" | tail -n 1)
passes EVALSHA "$both" 2 tokenward:one tokenward:two
kill -9 "$redis_pid"
wait "$redis_pid" 2>/dev/null || true
rm -f "$work/redis.sock"
start
[ "$(as_tokenward GET tokenward:two)" = 2 ] || { echo "a restart of Redis loses what a script wrote"; exit 1; }
