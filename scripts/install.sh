#!/bin/sh
# Installs tokenward on a machine with systemd: program, man pages, completions, units, the audit's rotation, runbook and the user
# `tokenward`. Safe to run again: it replaces program and units, and touches no configuration, key or store. `tokenward init` makes
# those.
#
#   sudo scripts/install.sh                 # BINARY=… to choose the program, DESTDIR=… for packaging (then no user is made)
set -eu
cd "$(dirname "$0")/.."

destdir=${DESTDIR:-}
binary=${BINARY:-}
if [ -z "$binary" ]; then
    for candidate in tokenward target/x86_64-unknown-linux-gnu/release/tokenward target/release/tokenward; do
        if [ -f "$candidate" ] && [ -x "$candidate" ]; then
            binary=$candidate
            break
        fi
    done
fi
if [ -z "$binary" ] || [ ! -x "$binary" ]; then
    echo "no program; build it (cargo build --locked --release) or set BINARY" >&2
    exit 1
fi

install -D -m 0755 "$binary" "$destdir/usr/bin/tokenward"
for unit in tokenward.service tokenward.socket tokenward-admin.socket; do
    install -D -m 0644 "deploy/systemd/$unit" "$destdir/usr/lib/systemd/system/$unit"
done
install -D -m 0644 deploy/systemd/sockets.conf "$destdir/usr/share/doc/tokenward/sockets.conf"
# Man pages and completions are the program's own.
pages=$destdir/usr/share/man/man1
install -d -m 0755 "$pages"
"$destdir/usr/bin/tokenward" man "$pages" >/dev/null
completions() {
    install -d -m 0755 "$destdir/$(dirname "$2")"
    "$destdir/usr/bin/tokenward" completions "$1" >"$destdir/$2"
    chmod 0644 "$destdir/$2"
}
completions bash usr/share/bash-completion/completions/tokenward
completions zsh usr/share/zsh/vendor-completions/_tokenward
completions fish usr/share/fish/vendor_completions.d/tokenward.fish

install -D -m 0644 deploy/systemd/tokenward.logrotate "$destdir/etc/logrotate.d/tokenward"
install -D -m 0644 deploy/RUNBOOK.md "$destdir/usr/share/doc/tokenward/RUNBOOK.md"
install -D -m 0644 deploy/prometheus/tokenward.rules.yml "$destdir/usr/share/doc/tokenward/tokenward.rules.yml"
if [ -n "$destdir" ]; then
    exit 0
fi

# A user that stays, so that key files can belong to it; the unit's DynamicUser uses the one that it finds.
if ! getent passwd tokenward >/dev/null; then
    useradd --system --user-group --no-create-home --home-dir /var/lib/tokenward --shell /usr/sbin/nologin tokenward
fi
# For `tokenward check` before the first start; systemd moves it to where it keeps those of a dynamic user.
if [ ! -e /var/log/tokenward ]; then
    install -d -m 0700 -o tokenward -g tokenward /var/log/tokenward
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi

if [ ! -e /etc/tokenward/tokenward.toml ]; then
    cat <<'NEXT'
Installed. Next:
  1. tokenward init /etc/tokenward --base-url https://tokens.contoso.com --home-tenant contoso.com
     It makes configuration, sealing key and a first caller, and says what to register (docs/app-registration.md).
  2. /etc/tokenward/credentials/outlook/…           the app's secret or certificate, mode 0600
  3. chown -R tokenward:tokenward /etc/tokenward    the daemon runs as that user
  4. tokenward check
  5. systemctl enable --now tokenward
NEXT
fi
