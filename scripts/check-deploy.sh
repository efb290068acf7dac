#!/usr/bin/env bash
# Checks everything under deploy/ with the tools that read it in production. A tool that is not installed is named and its
# check skipped; set STRICT=1 to fail instead.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

have() {
    if command -v "$1" >/dev/null 2>&1; then return 0; fi
    echo "skip  $2: $1 is not installed"
    skipped=$((skipped + 1))
    return 1
}
have_yaml() {
    have python3 "$1" || return 1
    if python3 -c 'import yaml' 2>/dev/null; then return 0; fi
    echo "skip  $1: PyYAML is not installed"
    skipped=$((skipped + 1))
    return 1
}
# check WHAT COMMAND...: when it passes, only what it skipped and how old its program is; when it does not, its whole output.
check() {
    local what=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        echo "ok    $what"
        if grep -E '^(skip|note)  ' "$work/out"; then skipped=$((skipped + $(grep -c '^skip  ' "$work/out" || true))); fi
    else
        echo "FAIL  $what"
        sed 's/^/      /' "$work/out"
        failed=1
    fi
}

if have systemd-analyze "unit hardening"; then
    # Exposure in tenths; 15 is 1.5.
    check "unit hardening" systemd-analyze security --offline=yes --threshold=15 --no-pager deploy/systemd/tokenward.service
fi

if have promtool "alert rules"; then
    check "alert rules" promtool check rules deploy/prometheus/tokenward.rules.yml
    check "alert rules, tests" promtool test rules deploy/prometheus/tokenward.test.yml
    check "compose: prometheus.yml" promtool check config --syntax-only deploy/compose/prometheus.yml
fi

# Every alert's runbook annotation leads to a heading that is there, every alert fires in a test and is silent in another.
if have_yaml "runbook anchors and alert tests"; then
    check "runbook anchors and alert tests" python3 scripts/check_alerts.py
fi

# The ACL file loads, lets the store's commands through and nothing else.
if have redis-server "Redis ACL" && have redis-cli "Redis ACL"; then
    check "Redis ACL" scripts/check-redis-acl.sh
fi

# Everything that a cluster gets; and as root, each overlay's daemon started. (It says itself what it skips.)
if { command -v kustomize >/dev/null || have kubectl "Kubernetes"; } && have npm "Kubernetes"; then
    check "Kubernetes" scripts/check-kubernetes.sh
fi

# What starts a daemon needs root and a program, and does not build it: one that is older than its sources is named.
binary=${BINARY:-target/debug/tokenward}
may_start() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "skip  $1: this needs root"
    elif [ ! -x "$binary" ]; then
        echo "skip  $1: no program at $binary (cargo build, or BINARY)"
    else
        if [ -n "$(find src Cargo.lock -newer "$binary" -print -quit)" ]; then
            echo "note  $1: $binary is older than its sources"
        fi
        return 0
    fi
    skipped=$((skipped + 1))
    return 1
}

# The units under a real systemd.
if have /usr/lib/systemd/systemd "units under systemd" && may_start "units under systemd"; then
    check "units under systemd" scripts/check-systemd.sh
fi

# With Grafana's schema, if the check before this one has installed it.
if [ -x target/interop/deploy/bin/python ]; then
    check "dashboard" target/interop/deploy/bin/python scripts/check_dashboard.py
elif have_yaml "dashboard"; then
    check "dashboard" python3 scripts/check_dashboard.py
fi

if have_yaml "compose file"; then
    check "compose file" python3 - <<'PY'
import yaml

with open("deploy/compose/compose.yaml") as source:
    compose = yaml.safe_load(source)
with open("deploy/tour/compose.yaml") as source:
    tour = yaml.safe_load(source)
for name, service in [*compose["services"].items(), *tour["services"].items()]:
    assert service.get("read_only") is True, f"{name}: read_only"
    assert service.get("cap_drop") == ["ALL"], f"{name}: cap_drop"
    assert "no-new-privileges:true" in service.get("security_opt", []), f"{name}: no-new-privileges"
    user = str(service.get("user", "0")).split(":")[0]
    assert user.isdigit() and int(user) > 0, f"{name}: user"
    assert not service.get("privileged"), f"{name}: privileged"
    for key in service.get("environment", {}):
        assert "PASSWORD" not in key and "SECRET" not in key, f"{name}: {key} belongs in a file"
    # A bind mount of one file goes on showing what it was before a rename.
    assert not service.get("secrets"), f"{name}: secrets are mounted as a directory"
    for volume in service.get("volumes", []):
        assert not volume.startswith("./secrets") or volume.endswith(":/run/secrets:ro"), f"{name}: {volume}"
    for port in service.get("ports", []):
        assert str(port).startswith("127.0.0.1:"), f"{name}: port {port} is published beyond loopback"
assert compose["networks"]["store"]["internal"] is True
for service in "tokenward", "setup":
    assert "./audit:/var/log/tokenward" in compose["services"][service]["volumes"], f"{service}: the audit stream has a file of its own"
with open("deploy/compose/tokenward.toml") as source:
    assert 'path = "/var/log/tokenward/audit.jsonl"' in source.read(), "the audit stream has a file of its own"
with open("deploy/systemd/tokenward.service") as source:
    unit = source.read()
assert "LogRateLimitIntervalSec=0" in unit and "LogsDirectory=tokenward" in unit, "the journal drops nothing"
PY
fi

if have logrotate "audit rotation"; then
    check "audit rotation" logrotate --debug --state "$work/state" deploy/systemd/tokenward.logrotate
fi

if have shellcheck "shell scripts"; then
    check "shell scripts" shellcheck scripts/*.sh deploy/compose/*.sh deploy/tour/*.sh
fi

if [ "$skipped" -gt 0 ] && [ "${STRICT:-0}" = 1 ]; then
    failed=1
fi
exit "$failed"
