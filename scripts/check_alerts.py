"""Holds alerts, their tests, their faults and the runbook together; run by check-deploy.sh.

Every alert has a summary, a description, a severity and a runbook annotation that leads to a heading of the runbook, and the same
section of the site as runbook_url; it fires in one test of tokenward.test.yml and is silent in another; it has a row in the table of
alert_faults.py, by which `make alerts` makes it fire; and no section, test or row for an alert is left over. docs/alerts.md is made
of that table: `check_alerts.py --write`.
"""

import pathlib
import re
import sys

from alert_faults import ROWS, Row
from scaled_rules import FACTOR

PAGE = pathlib.Path("docs/alerts.md")


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", markdown, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def unmatched(alerts: list[str], rows: list[Row]) -> list[str]:
    """What keeps the table of faults from having each alert once, and nothing else."""
    faults = [row.alert for row in rows]
    problems = [f"{name}: no row in scripts/alert_faults.py, so nothing makes it fire" for name in alerts if name not in faults]
    problems += [f"{name}: a row in scripts/alert_faults.py, but there is no such alert" for name in faults if name not in alerts]
    problems += [f"{name}: {faults.count(name)} rows in scripts/alert_faults.py" for name in sorted(set(faults)) if faults.count(name) > 1]
    for row in rows:
        problems += [f"{row.alert}: {name} may fire beside it, but there is no such alert" for name in row.beside if name not in alerts]
        if bool(row.beside) != bool(row.why):
            problems.append(f"{row.alert}: what may fire beside it has no reason, or a reason is there for nothing")
    return problems


def page(rows: list[Row], factor: int) -> str:
    lines = [f"| [{row.alert}](../deploy/RUNBOOK.md#{section(row.alert)}) | {row.fault} | {row.repair} | {beside(row)} |" for row in rows]
    return TEXT.format(factor=factor, scaled=f"{5 * 60 // factor} seconds", rows="\n".join(lines))


def section(alert: str) -> str:
    """The runbook has one section for alerts that differ in the time that is left."""
    return re.sub(r"(\d+d|fast|slow)$", "", alert.lower())


def beside(row: Row) -> str:
    return f"{', '.join(sorted(row.beside))}: {row.why}" if row.beside else ""


TEXT = """# How each alert was made to fire

<!-- Generated from scripts/alert_faults.py: change that, then run `python3 scripts/check_alerts.py --write` -->

`make alerts` makes every alert of [`deploy/prometheus`](../deploy/prometheus) fire by its fault and clear by its
repair. A Prometheus with these rules scrapes two replicas of tokenward that share one Redis; the emulator is their
authority, and callers ask for tokens all the while. First there is a quiet phase in which no alert may fire. Then the
faults of the table come one after the other; those that take long go on beside the rest. The trial fails if an alert
does not fire, does not clear, or if one fires whose fault is not under way and that is not said here.

It takes some twenty minutes, root, and Debian's Prometheus, blackbox exporter and Redis, which it installs. For single
alerts: `scripts/alerts.sh TokenwardDown TokenwardNotReady`.

## Its times

The rules wait for minutes to days. The trial divides every duration in them by **{factor}**: windows, `for` and `offset`,
so that five minutes are {scaled}. The expressions are the same otherwise. That has limits:

- **Numbers stay as they are**, also those that are compared with `time()`. So the fault of a certificate is one that
  has so many days left, and `TokenwardSweepStopped` and `TokenwardIssuerKeysStale` take their 5 and 15 minutes.
- **Counts within a window must come {factor} times as fast.** The trial has more refreshes and failures a second than a
  service of this size, so its load says nothing about yours.
- **tokenward's own times are not divided.** It counts connections every half a minute and looks when keys and the
  certificate for Redis end every minute. That is most of the time that those alerts take here.
- **Prometheus scrapes every half a second**: every 0.15 s would be 15 s divided. So a window has fewer samples than in
  production, and one missed scrape weighs more.
- `serve_cached_for` is 3 s in place of 5 minutes, and the lives of ended connect sessions are divided too, before a
  sealing key can be done without.

So the trial shows that each fault reaches its alert and each repair ends it, and which alerts come with it. It does not
show how soon either happens: that is what the rules say.

## Faults and repairs

| alert | fault | repair | may fire beside it |
|---|---|---|---|
{rows}
"""


def main() -> int:
    try:
        import yaml
    except ImportError:
        sys.exit("PyYAML is not installed")

    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(ROWS, FACTOR))
        return 0
    with open("deploy/prometheus/tokenward.rules.yml") as source:
        groups = yaml.safe_load(source)["groups"]
    with open("deploy/prometheus/tokenward.test.yml") as source:
        tests = yaml.safe_load(source)["tests"]
    with open("deploy/RUNBOOK.md") as source:
        known = anchors(source.read())

    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    checks = [check for test in tests for check in test.get("alert_rule_test", [])]
    fired = {check["alertname"] for check in checks if check.get("exp_alerts")}
    silent = {check["alertname"] for check in checks if not check.get("exp_alerts")}
    problems = unmatched([rule["alert"] for rule in alerts], ROWS)
    used = set()
    for rule in alerts:
        name = rule["alert"]
        for key in ("summary", "description", "runbook"):
            if not rule.get("annotations", {}).get(key):
                problems.append(f"{name}: no {key}")
        if rule.get("labels", {}).get("severity") not in {"critical", "warning", "info"}:
            problems.append(f"{name}: no severity")
        document, _, anchor = rule.get("annotations", {}).get("runbook", "").partition("#")
        used.add(anchor)
        if document != "deploy/RUNBOOK.md" or anchor not in known:
            problems.append(f"{name}: the runbook has no heading for #{anchor}")
        if anchor != section(name):
            problems.append(f"{name}: #{anchor} is not where docs/alerts.md looks, #{section(name)}")
        if rule.get("annotations", {}).get("runbook_url") != f"https://tokenward.example/RUNBOOK.html#{anchor}":
            problems.append(f"{name}: runbook_url is not the runbook's section on the site")
        if name not in fired:
            problems.append(f"{name}: no test in which it fires")
        if name not in silent:
            problems.append(f"{name}: no test in which it is silent")
    for name in (fired | silent) - {rule["alert"] for rule in alerts}:
        problems.append(f"{name}: tested, but there is no such alert")
    for anchor in sorted(known):
        if anchor.startswith("tokenward") and anchor not in used:
            problems.append(f"the runbook's #{anchor} belongs to no alert")
    if not PAGE.exists() or PAGE.read_text() != page(ROWS, FACTOR):
        problems.append(f"{PAGE} is old: python3 scripts/check_alerts.py --write")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
