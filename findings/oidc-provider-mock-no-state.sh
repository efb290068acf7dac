#!/usr/bin/env bash
# oidc-provider-mock 0.3.4 answers a refused consent without `state` (RFC 6749 §4.1.2.1 requires it): the client cannot tell whose it is.
set -euo pipefail
folder=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check oidc-provider-mock==0.3.4
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/venv/bin/oidc-provider-mock" --port "$port" >"$folder/log" 2>&1 &
server=$!
for _ in $(seq 100); do
    if curl -sf -o /dev/null "http://127.0.0.1:$port/.well-known/openid-configuration"; then break; fi
    sleep 0.1
done
ask="client_id=c&response_type=code&scope=openid&state=S&redirect_uri=http://localhost/cb"
answer() { curl -s -o /dev/null -w '%{redirect_url}' "$@" "http://127.0.0.1:$port/oauth2/authorize?$ask"; }
refused=$(answer -d action=deny)
allowed=$(answer -d sub=alice)
echo "oidc-provider-mock 0.3.4: refused $refused"
echo "oidc-provider-mock 0.3.4: allowed $allowed"
case $refused in *error=access_denied*) ;; *) exit 1 ;; esac
case $refused in *state=*) exit 1 ;; esac
case $allowed in *state=S*) ;; *) exit 1 ;; esac
