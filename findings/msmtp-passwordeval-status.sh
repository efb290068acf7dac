#!/usr/bin/env bash
# msmtp 1.8.23 (Debian 12) uses what passwordeval printed even if that command failed: it logs in with it, sends, and exits with 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill %% 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
package=msmtp=1.8.23-1
# The package, and those of its dependencies that this machine has not.
more=$(apt-get install -q -y --no-install-recommends -s "$package" | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086  # a list of names
apt-get -o APT::Sandbox::User=root download -q "$package" $more >/dev/null
for archive in *.deb; do dpkg -x "$archive" root; done
export LD_LIBRARY_PATH="$folder/$(echo root/usr/lib/*-linux-gnu)"
root/usr/bin/msmtp --version | head -1
python3 - >port <<'PYTHON' &
import base64, socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
client = server.accept()[0]
lines = client.makefile("rwb", buffering=0)
lines.write(b"220 ready\r\n")
for line in lines:
    word = line.split()[0].upper()
    if word == b"EHLO":
        lines.write(b"250-here\r\n250 AUTH PLAIN\r\n")
    elif word == b"AUTH":
        print("the server got", base64.b64decode(line.split()[2]).split(b"\0")[2].decode(), flush=True)
        lines.write(b"235 ok\r\n")
    elif word == b"DATA":
        lines.write(b"354 go on\r\n")
        while lines.readline() != b".\r\n":
            pass
        lines.write(b"250 sent\r\n")
    else:
        lines.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
PYTHON
until [ -s port ]; do sleep 0.05; done
cat >command <<'COMMAND'
#!/bin/sh
echo half-a-password
exit 1
COMMAND
chmod 700 command
cat >msmtprc <<CONFIG
account default
host 127.0.0.1
port $(head -1 port)
auth plain
tls off
user me
from me@contoso.com
passwordeval $folder/command
CONFIG
chmod 600 msmtprc
status=0
printf 'Subject: x\n\nx\n' | timeout 20 root/usr/bin/msmtp -C msmtprc you@contoso.com || status=$?
echo "msmtp exits with $status; $(tail -1 port)"
[ "$status" = 0 ]
grep -qx "the server got half-a-password" port
