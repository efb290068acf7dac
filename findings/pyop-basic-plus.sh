#!/usr/bin/env bash
# pyop 3.5.0 refuses a client secret with a space that HTTP Basic carries form-encoded, as RFC 6749 §2.3.1 and appendix B want it (`+`).
# It takes `%20`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pyop==3.5.0
"$folder/venv/bin/python" - <<'PYTHON'
from base64 import b64encode
from importlib.metadata import version
from urllib.parse import quote, quote_plus

from pyop.client_authentication import verify_client_authentication
from pyop.exceptions import InvalidClientAuthentication

secret = "a b"
clients = {"c": {"client_secret": secret, "token_endpoint_auth_method": "client_secret_basic"}}
taken = {}
for encoded in (quote_plus(secret), quote(secret)):
    header = "Basic " + b64encode(f"c:{encoded}".encode()).decode()
    try:
        verify_client_authentication(clients, {}, header)
        taken[encoded] = True
    except InvalidClientAuthentication:
        taken[encoded] = False
print(f"pyop {version('pyop')}: takes {taken}")
assert taken == {"a+b": False, "a%20b": True}, taken
PYTHON
