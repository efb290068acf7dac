#!/usr/bin/env bash
# Authlib 1.9.10, private_key_jwt: PrivateKeyJWT makes a new `jti` for each request, unless it was given `claims` (to add one of
# its own, say). Then the first `jti` stays in that dictionary, and every later assertion repeats it: a server that keeps to
# RFC 7523's single use refuses the second request.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check Authlib==1.9.10 joserfc==1.8.0 requests==2.33.1 >/dev/null
cat >"$folder/see.py" <<'PY'
import base64, importlib.metadata, json, sys

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey

print("Authlib", importlib.metadata.version("Authlib"))
key = ECKey.generate_key("P-256", {"kid": "a"})
endpoint = "https://issuer.example/token"


def two_requests(**more):
    method = PrivateKeyJWT(endpoint, alg="ES256", **more)
    auth = ClientAuth("client", key, method)
    for _ in range(2):
        _, _, body = auth.prepare("POST", endpoint, {"content-type": "application/x-www-form-urlencoded"}, "a=b")
        form = dict(pair.split("=", 1) for pair in body.split("&"))
        claims = form["client_assertion"].split(".")[1]
        yield json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"]


first, second = two_requests()
print("without claims: the same jti" if first == second else "without claims: another jti each time")
repeated = len(set(two_requests(claims={"tenant": "a"}))) == 1
print("with claims: the same jti" if repeated else "with claims: another jti each time")
sys.exit(0 if first != second and repeated else 1)
PY
"$folder/venv/bin/python" "$folder/see.py"
