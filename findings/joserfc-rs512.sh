#!/usr/bin/env bash
# joserfc 1.8.0 guesses RS512, not RS256, for an RSA key without `alg` (which Canaille 0.3.6 signs its id_tokens with).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check joserfc==1.8.0 cryptography==50.0.2
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
from joserfc import jws
from joserfc.jwk import RSAKey

registry = jws.JWSRegistry(algorithms=list(jws.JWSRegistry.algorithms))
guess = registry.guess_algorithm(RSAKey.generate_key(2048), registry.Strategy.SECURITY).name
print(f"joserfc {version('joserfc')}: an RSA key of 2048 bits without alg is guessed to be for {guess}")
assert guess == "RS512", guess
PYTHON
