#!/usr/bin/env bash
# isync 1.4.4 (Debian 12) reads 8,191 bytes of what PassCmd prints and drops the rest without a word: it logs in with a token whose
# end is missing, and the server calls the token wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill %% 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
packages=(isync=1.4.4-5 libsasl2-modules-kdexoauth2=22.12.3-1)
# The packages, and those of their dependencies that this machine has not.
more=$(apt-get install -q -y --no-install-recommends -s "${packages[@]}" | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086  # a list of names
apt-get -o APT::Sandbox::User=root download -q "${packages[@]}" $more >/dev/null
for archive in *.deb; do dpkg -x "$archive" root; done
libraries=$(echo root/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH="$folder/$libraries" SASL_PATH="$folder/$libraries/sasl2:/$libraries/sasl2"
root/usr/bin/mbsync --version
python3 - >port <<'PYTHON' &
import base64, socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
client = server.accept()[0]
lines = client.makefile("rwb", buffering=0)
lines.write(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] ready\r\n")
tag, _, _, response = lines.readline().split()
token = base64.b64decode(response).split(b"auth=Bearer ")[1].rstrip(b"\1")
print(f"the server got {len(token)} bytes of token", flush=True)
lines.write(tag + b" NO\r\n")
PYTHON
until [ -s port ]; do sleep 0.05; done
head -c 8500 /dev/zero | tr '\0' t >token
cat >mbsyncrc <<CONFIG
IMAPAccount a
Host 127.0.0.1
Port $(head -1 port)
User me@contoso.com
PassCmd "cat $folder/token"
AuthMechs XOAUTH2
SSLType None

IMAPStore far
Account a

MaildirStore near
Path $folder/mail/
Inbox $folder/mail/INBOX

Channel a
Far :far:
Near :near:
CONFIG
mkdir mail
timeout 20 root/usr/bin/mbsync -c mbsyncrc -a >said 2>&1 || true
echo "the command printed $(wc -c <token) bytes, $(tail -1 port)"
grep -qx "the server got 8191 bytes of token" port
! grep -qi "too long\|too large\|truncat" said
