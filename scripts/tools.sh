#!/usr/bin/env bash
# Installs what the tests need and the machine lacks: redis-server, promtool, openssl, valgrind, curl, jq, chromium, and under
# target/interop a Python venv and npm packages (tests/interop/README.md says which). With `providers`, `vault`, `mail`, `slow`,
# `deploy` or `languages` also what only that target of the Makefile needs. Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

node_is_new_enough() { command -v node >/dev/null && [ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ]; }

# Installs Debian's packages. No service starts that one of them brings.
install() {
  local sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"
  echo "installing: $*"
  $sudo apt-get update -q
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
    # shellcheck disable=SC2064  # the values of now
    trap "$sudo rm -f $policy" EXIT
  fi
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -q -y --no-install-recommends "$@"
}

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v redis-cli >/dev/null || missing+=(redis-tools)
command -v promtool >/dev/null || missing+=(prometheus)
command -v openssl >/dev/null || missing+=(openssl)
command -v valgrind >/dev/null || missing+=(valgrind)
command -v curl >/dev/null || missing+=(curl)
command -v jq >/dev/null || missing+=(jq)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
# A browser for users' pages, with a font for its pictures.
command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
# Debian's python3 comes without what a venv is made with.
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
if [ "${1:-}" = slow ]; then
  command -v slowhttptest >/dev/null || missing+=(slowhttptest)
fi
if [ "${1:-}" = deploy ]; then
  command -v prometheus-blackbox-exporter >/dev/null || missing+=(prometheus-blackbox-exporter)
fi
if [ "${1:-}" = languages ]; then
  command -v go >/dev/null || missing+=(golang-go)
  command -v java >/dev/null || missing+=(default-jdk-headless)
  [ -e /usr/share/java/gson.jar ] || missing+=(libgoogle-gson-java)
  command -v mcs >/dev/null || missing+=(mono-mcs)
  command -v mono >/dev/null || missing+=(mono-runtime)
  declare -A dll=([Net.Http]=libmono-system-net-http4.0-cil [Runtime.Serialization]=libmono-system-runtime-serialization4.0-cil)
  dll+=([Xml.Linq]=libmono-system-xml-linq4.0-cil)
  for name in "${!dll[@]}"; do [ -e "/usr/lib/mono/4.5/System.$name.dll" ] || missing+=("${dll[$name]}"); done
fi
if [ "${1:-}" = mail ]; then
  declare -A of=([mbsync]=isync [msmtp]=msmtp [neomutt]=neomutt [getmail]=getmail6 [aerc]=aerc [offlineimap]=offlineimap3)
  of+=([dovecot]=dovecot-imapd [postfix]=postfix)
  for program in "${!of[@]}"; do command -v "$program" >/dev/null || missing+=("${of[$program]}"); done
  [ -e /usr/lib/dovecot/lmtp ] || missing+=(dovecot-lmtpd)
  compgen -G "/usr/lib/*/sasl2/libkdexoauth2.so" >/dev/null || missing+=(libsasl2-modules-kdexoauth2)
fi
if [ "${#missing[@]}" -gt 0 ]; then install "${missing[@]}"; fi
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
venv() {
  local requirements="tests/interop/$1.txt" folder="$interop/$2"
  if ! cmp -s "$requirements" "$interop/$1.installed" || [ ! -x "$folder/bin/python" ]; then
    echo "installing into $folder: $requirements"
    rm -rf "$folder" "$interop/$1.installed"
    python3 -m venv "$folder"
    # Only what a test imports is compiled, by that test: the Graph SDK alone has 16,000 modules.
    "$folder/bin/python" -m pip install -q --no-compile --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$interop/$1.installed"
  fi
}
if [ "${1:-}" = deploy ]; then
  # Only what the checks of deploy/ need: they are run without the rest.
  venv requirements-deploy deploy
  if ! cmp -s tests/interop/deploy/package-lock.json "$interop/deploy-lock.installed" || [ ! -d "$interop/deploy-node/node_modules" ]; then
    echo "installing into $interop/deploy-node: tests/interop/deploy/package-lock.json"
    rm -rf "$interop/deploy-node" "$interop/deploy-lock.installed"
    mkdir -p "$interop/deploy-node"
    cp tests/interop/deploy/package.json tests/interop/deploy/package-lock.json "$interop/deploy-node/"
    (cd "$interop/deploy-node" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
    cp tests/interop/deploy/package-lock.json "$interop/deploy-lock.installed"
  fi
  exit 0
fi
venv requirements venv
venv requirements-telemetry telemetry
if ! cmp -s tests/interop/package-lock.json "$interop/package-lock.installed" || [ ! -d "$interop/node/node_modules" ]; then
  echo "installing into $interop/node: tests/interop/package-lock.json"
  rm -rf "$interop/node" "$interop/package-lock.installed"
  mkdir -p "$interop/node"
  cp tests/interop/package.json tests/interop/package-lock.json "$interop/node/"
  (cd "$interop/node" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  cp tests/interop/package-lock.json "$interop/package-lock.installed"
fi
[ "${1:-}" = schemas ] && venv requirements-schemas schemas
[ "${1:-}" = vault ] && venv requirements-vault vault
[ "${1:-}" = providers ] || exit 0

venv requirements-providers providers

# Glewlwyd and LemonLDAP::NG are Debian's. They are unpacked here and not installed, so that no service starts on the
# machine and nothing has to be removed afterwards.
debian=(glewlwyd dbconfig-no-thanks liblemonldap-ng-portal-perl libstring-random-perl libio-string-perl libplack-perl)
# What stands between the portal and Plack the portal needs, and its package does not depend on.
if [ "$(head -1 "$interop/debian.installed" 2>/dev/null)" != "${debian[*]}" ] || [ ! -x "$interop/debian/usr/bin/glewlwyd" ]; then
  command -v apt-get >/dev/null || { echo "Glewlwyd and LemonLDAP::NG are had from Debian's packages only" >&2; exit 1; }
  echo "unpacking into $interop/debian: ${debian[*]}"
  if ! apt-cache show "${debian[@]}" >/dev/null 2>&1; then
    sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"
    $sudo apt-get update -q
  fi
  rm -rf "$interop/debian" "$interop/debian.installed"
  mkdir -p "$interop/debian/archives"
  # What would be new on this machine, and not what would only be brought up to date.
  wanted=$(apt-get install -q -y --no-install-recommends -s "${debian[@]}" | awk '/^Inst/ && $3 !~ /^\[/ { print $2 }')
  # shellcheck disable=SC2086  # a list of names
  (cd "$interop/debian/archives" && apt-get download -q $wanted >/dev/null)
  for archive in "$interop"/debian/archives/*.deb; do dpkg -x "$archive" "$interop/debian"; done
  rm -r "$interop/debian/archives"
  printf '%s\n' "${debian[*]}" "$wanted" >"$interop/debian.installed"
fi
