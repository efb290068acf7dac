#!/usr/bin/env bash
# Starts a Redis with the ACL file of deploy/compose and shows that the store's commands pass and others do not.
# Redis before 7.2 does not know one word of the file, which is taken out for it.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'if [ -n "${redis_pid:-}" ]; then kill "$redis_pid" 2>/dev/null; wait "$redis_pid" 2>/dev/null; fi; rm -rf "$work"' EXIT

cp deploy/compose/prepare.sh deploy/compose/redis.acl deploy/compose/tokenward.toml "$work"
"$work/prepare.sh"
cat "$work/secrets/redis.acl" >"$work/users.acl"
if ! redis-server --version | grep -qE 'v=(7\.[2-9]|[89]|[1-9][0-9])'; then
    sed -i 's/ +client|setinfo//' "$work/users.acl"
fi
redis-server --port 0 --unixsocket "$work/redis.sock" --aclfile "$work/users.acl" --save '' --dir "$work" >"$work/redis.log" 2>&1 &
redis_pid=$!
for _ in $(seq 50); do
    if [ -S "$work/redis.sock" ]; then break; fi
    sleep 0.1
done
if [ ! -S "$work/redis.sock" ]; then
    cat "$work/redis.log"
    exit 1
fi

password=$(cat "$work/secrets/redis-password")
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
passes EXISTS tokenward:a
passes PEXPIRE tokenward:a 60000
passes PTTL tokenward:a
passes GETDEL tokenward:a
passes HSET tokenward:h f 1
passes HGET tokenward:h f
passes HMGET tokenward:h f
passes HGETALL tokenward:h
passes UNLINK tokenward:h
passes DEL tokenward:h
passes ZADD tokenward:z 1 m
passes ZRANGE tokenward:z 0 -1
passes ZRANGEBYSCORE tokenward:z 0 1
passes ZCARD tokenward:z
passes ZREM tokenward:z m
passes SADD tokenward:s m
passes SCARD tokenward:s
passes SMEMBERS tokenward:s
passes SSCAN tokenward:s 0
passes SREM tokenward:s m
passes PUBLISH tokenward:events x
passes PING
passes HELLO 3
passes INFO replication
passes ROLE
passes WAIT 0 10
passes TIME
passes CLIENT SETNAME tokenward
passes SCRIPT LOAD 'return 1'
passes EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0 # the `return 1` of above
passes EVAL "return redis.call('SET', KEYS[1], '1')" 1 tokenward:b

refused GET other
refused SET other 1
refused PUBLISH other x
refused SUBSCRIBE other
refused SSUBSCRIBE other
refused PSUBSCRIBE '*'
refused KEYS '*'
refused SCAN 0
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
refused EVAL "return redis.call('GET', 'other')" 0
refused EVAL "return redis.call('KEYS', '*')" 0

as_other() { redis-cli -s "$work/redis.sock" --no-auth-warning "$@" 2>&1 || true; }
as_other GET tokenward:b | grep -q NOAUTH || { echo "the default user is let in"; exit 1; }
as_other --user health --pass none PING | grep -q PONG || { echo "the health user may not ping"; exit 1; }
as_other --user health --pass none GET tokenward:b | grep -q NOPERM || { echo "the health user may read"; exit 1; }
operator=$(cat "$work/secrets/redis-operator-password")
as_other --user operator --pass "$operator" ACL LOAD | grep -q OK || { echo "the operator may not reload the ACL file"; exit 1; }
as_other --user operator --pass "$operator" GET tokenward:b | grep -q NOPERM || { echo "the operator may read"; exit 1; }
