#!/usr/bin/env bash
# Installs what the tests need and the machine lacks: redis-server, promtool, openssl, and under target/interop a Python
# venv with MSAL and npm packages (MSAL, oidc-provider). Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

node_is_new_enough() { command -v node >/dev/null && [ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ]; }

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v redis-cli >/dev/null || missing+=(redis-tools)
command -v promtool >/dev/null || missing+=(prometheus)
command -v openssl >/dev/null || missing+=(openssl)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
# Debian's python3 comes without what a venv is made with.
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
if [ "${#missing[@]}" -gt 0 ]; then
  echo "installing: ${missing[*]}"
  sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"
  $sudo apt-get update -q
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -q -y --no-install-recommends "${missing[@]}"
fi
if ! node_is_new_enough; then
  echo "the interoperability tests need Node 20 or newer, here is $(node --version); install one from nodejs.org" >&2
  exit 1
fi

interop=target/interop
mkdir -p "$interop"
# One at a time: two runs in one checkout would pull the packages from under each other.
if command -v flock >/dev/null; then
  exec 9>"$interop/lock"
  flock 9
fi

# What was installed stands beside it, so that a changed list is seen and an interrupted installation is not believed.
if ! cmp -s tests/interop/requirements.txt "$interop/requirements.installed" || [ ! -x "$interop/venv/bin/python" ]; then
  echo "installing into $interop/venv: tests/interop/requirements.txt"
  rm -rf "$interop/venv" "$interop/requirements.installed"
  python3 -m venv "$interop/venv"
  "$interop/venv/bin/python" -m pip install -q --disable-pip-version-check -r tests/interop/requirements.txt
  cp tests/interop/requirements.txt "$interop/requirements.installed"
fi
if ! cmp -s tests/interop/package-lock.json "$interop/package-lock.installed" || [ ! -d "$interop/node/node_modules" ]; then
  echo "installing into $interop/node: tests/interop/package-lock.json"
  rm -rf "$interop/node" "$interop/package-lock.installed"
  mkdir -p "$interop/node"
  cp tests/interop/package.json tests/interop/package-lock.json "$interop/node/"
  (cd "$interop/node" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  cp tests/interop/package-lock.json "$interop/package-lock.installed"
fi
