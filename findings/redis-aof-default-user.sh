#!/usr/bin/env bash
# Redis 7.0.15 (Debian 12) reads its append-only file as the default user. Where that user is off and without rights, a restart leaves
# out every transaction, and the writes of a script are one; single writes are there. Only the log has a word of it. With every right
# the user may be off. (Mended in Redis by pull request 14545; Valkey 9.1.2 loads all of it.)
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
packages=(redis-tools)
# The package, and those of its dependencies that this machine has not. (Debian 12 has one version of it at a time: the newest patch.)
more=$(apt-get install -q -y --no-install-recommends -s "${packages[@]}" | awk '/^Inst/ { print $2 }' | grep -vx redis-tools || true)
# shellcheck disable=SC2086  # a list of names
apt-get -o APT::Sandbox::User=root download -q "${packages[@]}" $more >/dev/null
for archive in *.deb; do dpkg -x "$archive" root; done
libraries=$(echo root/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH="$folder/$libraries"
ln -s redis-check-rdb root/usr/bin/redis-server # one program, which looks at its name
root/usr/bin/redis-server --version | grep -o 'v=7.0.15'
as_app() { root/usr/bin/redis-cli -s "$folder/socket" --no-auth-warning --user app --pass word "$@"; }
start() {
    root/usr/bin/redis-server --port 0 --unixsocket "$folder/socket" --dir "$folder" --aclfile "$folder/acl" --appendonly yes \
        --appendfsync always --save "" --logfile "$folder/log" &
    pid=$!
    for _ in $(seq 100); do
        if as_app PING 2>/dev/null | grep -q PONG; then return; fi
        sleep 0.1
    done
    exit 1
}
for rights in "-@all" "~* &* +@all"; do
    rm -rf appendonlydir log
    printf 'user default off resetpass %s\nuser app on >word ~* &* +@all\n' "$rights" >acl
    start
    as_app SET one 1 >/dev/null
    as_app EVAL "redis.call('SET', 'two', 2) redis.call('SET', 'three', 3) return 1" 0 >/dev/null
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
    rm -f socket
    start
    echo "default off $rights: one=$(as_app GET one) two=$(as_app GET two) three=$(as_app GET three), $(grep -c NOPERM log || true) complaints"
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
    pid=
    rm -f socket
done >seen
cat seen
grep -qx 'default off -@all: one=1 two= three=, 2 complaints' seen
grep -qx 'default off ~\* &\* +@all: one=1 two=2 three=3, 0 complaints' seen
