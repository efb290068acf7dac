#!/bin/sh
# Starts the tour's tokenward. The first time it makes a sealing key, a caller's API key (tour.key) and the file with the secret
# that the emulator knows, and a webhook's, beside a copy of tokenward.toml.
set -eu
umask 077
cd /var/lib/tokenward
export TOKENWARD_CONFIG=/var/lib/tokenward/tokenward.toml
cp /tour/tokenward.toml "$TOKENWARD_CONFIG"
mkdir -p credentials callers
[ -e credentials/first ] || printf 'tour-secret\n' >credentials/first
[ -e webhook.secret ] || printf 'whsec_dG91ci1vbmx5LWEtc2VjcmV0LW9mLTMyLWJ5dGVzISE=\n' >webhook.secret
[ -e keyring ] || tokenward keyring add
if [ ! -s tour.key ]; then
    tokenward callers add-key tour >tour.key.new
    mv tour.key.new tour.key
fi
exec tokenward serve
