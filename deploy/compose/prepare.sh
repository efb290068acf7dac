#!/bin/sh
# Makes what compose.yaml mounts and git never holds: etc/ (configuration, keyring, credentials, API keys), audit/ (the audit stream,
# with audit.logrotate beside it for the host) and secrets/
# (tokenward/: the Redis password; redis/: the operator's password, and the ACL file with the hashes of both). Run as root,
# because each file must belong to the user inside its container. A second run changes no password.
#
#   sudo deploy/compose/prepare.sh
set -eu
umask 077
cd "$(dirname "$0")"

tokenward_uid=65532 # the image's user
redis_uid=999       # the user of the official Redis images

mkdir -p etc/keyring etc/credentials etc/callers audit secrets/tokenward secrets/redis

for who in tokenward/redis-password redis/redis-operator-password; do
    if [ ! -e "secrets/$who" ]; then
        # 256 random bits in hex, without a line end.
        od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"secrets/$who"
    fi
done
hash_of() { sha256sum <"secrets/$1" | cut -d' ' -f1; }
if [ ! -e secrets/redis/redis.acl ]; then
    sed -e '/^#/d' \
        -e "s/@PASSWORD_SHA256@/$(hash_of tokenward/redis-password)/" \
        -e "s/@OPERATOR_SHA256@/$(hash_of redis/redis-operator-password)/" \
        redis.acl >secrets/redis/redis.acl
fi
if [ ! -e etc/tokenward.toml ]; then
    cp tokenward.toml etc/tokenward.toml
fi

# As deploy/systemd/tokenward.logrotate, which says why.
cat >audit.logrotate <<END
$(pwd)/audit/audit.jsonl {
    daily
    maxsize 200M
    rotate 4000
    maxage 400
    dateext
    dateformat -%Y%m%d-%s
    missingok
    notifempty
    nocreate
    compress
    delaycompress
}
END

chmod 0700 audit etc etc/keyring etc/credentials etc/callers secrets secrets/tokenward secrets/redis
chmod 0600 etc/tokenward.toml secrets/tokenward/redis-password secrets/redis/redis-operator-password
chmod 0400 secrets/redis/redis.acl
if [ "$(id -u)" -eq 0 ]; then
    chown -R "$tokenward_uid:$tokenward_uid" audit etc secrets/tokenward
    chown root:root audit.logrotate # logrotate takes none of anybody else's
    chmod 0644 audit.logrotate
    chown -R "$redis_uid:$redis_uid" secrets/redis
else
    echo "not root: give audit, etc and secrets/tokenward to uid $tokenward_uid, secrets/redis to uid $redis_uid" >&2
fi
echo "ready: $(pwd)/etc, $(pwd)/audit and $(pwd)/secrets"
echo "next, so that the audit stream is rotated: ln -s $(pwd)/audit.logrotate /etc/logrotate.d/tokenward-compose"
