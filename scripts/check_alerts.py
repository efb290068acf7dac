"""Holds alerts, their tests and the runbook together; run by check-deploy.sh.

Every alert has a summary, a description, a severity and a runbook annotation that leads to a heading of the runbook, and the same
section of the site as runbook_url; it
fires in one test of tokenward.test.yml and is silent in another; and no section for an alert is left over.
"""

import re
import sys

try:
    import yaml
except ImportError:
    sys.exit("PyYAML is not installed")


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", markdown, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def main() -> int:
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
    problems = []
    used = set()
    for rule in alerts:
        name = rule["alert"]
        for key in ("summary", "description", "runbook"):
            if not rule.get("annotations", {}).get(key):
                problems.append(f"{name}: no {key}")
        if rule.get("labels", {}).get("severity") not in {"critical", "warning", "info"}:
            problems.append(f"{name}: no severity")
        page, _, anchor = rule.get("annotations", {}).get("runbook", "").partition("#")
        used.add(anchor)
        if page != "deploy/RUNBOOK.md" or anchor not in known:
            problems.append(f"{name}: the runbook has no heading for #{anchor}")
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
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
