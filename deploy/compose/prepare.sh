#!/bin/sh
# Makes what compose.yaml mounts and git never holds: etc/ (configuration, keyring, credentials, API keys) and secrets/
# (the Redis passwords and the ACL file with their hashes). Run as root, because each file must belong to the user inside
# its container. A second run changes no password.
#
#   sudo deploy/compose/prepare.sh
set -eu
umask 077
cd "$(dirname "$0")"

tokenward_uid=65532 # the image's user
redis_uid=999       # the user of the official Redis images

mkdir -p etc/keyring etc/credentials etc/callers secrets
chmod 0755 secrets # each file in it has its own owner and mode

for who in redis-password redis-operator-password; do
    if [ ! -e "secrets/$who" ]; then
        # 256 random bits in hex, without a line end.
        od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"secrets/$who"
    fi
done
hash_of() { sha256sum <"secrets/$1" | cut -d' ' -f1; }
if [ ! -e secrets/redis.acl ]; then
    sed -e '/^#/d' \
        -e "s/@PASSWORD_SHA256@/$(hash_of redis-password)/" \
        -e "s/@OPERATOR_SHA256@/$(hash_of redis-operator-password)/" \
        redis.acl >secrets/redis.acl
fi
if [ ! -e etc/tokenward.toml ]; then
    cp tokenward.toml etc/tokenward.toml
fi

chmod 0700 etc etc/keyring etc/credentials etc/callers
chmod 0600 etc/tokenward.toml secrets/redis-password secrets/redis-operator-password
chmod 0400 secrets/redis.acl
if [ "$(id -u)" -eq 0 ]; then
    chown -R "$tokenward_uid:$tokenward_uid" etc secrets/redis-password
    chown "$redis_uid:$redis_uid" secrets/redis.acl secrets/redis-operator-password
else
    echo "not root: give etc and secrets/redis-password to uid $tokenward_uid, the other files in secrets to uid $redis_uid" >&2
fi
echo "ready: $(pwd)/etc and $(pwd)/secrets"
