#!/usr/bin/env bash
# Authlib 1.9.10's bearer tokens are said to live ten days with a code and one hour with each refresh, by default.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check Authlib==1.9.10 cryptography==50.0.2
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
from authlib.oauth2.rfc6750 import BearerTokenGenerator


class Client:
    def get_allowed_scope(self, scope):
        return scope


make = BearerTokenGenerator(lambda **_: "token")
grants = ["authorization_code", "refresh_token"]
lives = {grant: make.generate(grant, Client(), scope="openid")["expires_in"] for grant in grants}
print(f"Authlib {version('Authlib')}: expires_in is {lives}")
assert lives == {"authorization_code": 864000, "refresh_token": 3600}, lives
PYTHON
