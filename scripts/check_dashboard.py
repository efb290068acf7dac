"""Checks deploy/grafana/tokenward.json; run by check-deploy.sh.

Each panel has a title, an answer's place of its own on the grid and questions; every metric in them is one of docs/metrics.md, a
recording of the rules, or of the process. With Grafana's own kit (grafana-foundation-sdk of PyPI) the whole is read and written again:
what its schema does not know would be lost on the way. Whether every question has an answer: check-tour.sh.
"""

import json
import pathlib
import re
import sys

import yaml

DASHBOARD = pathlib.Path("deploy/grafana/tokenward.json")
# What Grafana reads and its schema does not have.
BESIDE_THE_SCHEMA = {"builtIn", "titleFormat", "textFormat", "step"}
OTHERS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total", "ALERTS"}


def lost(before, after, path: str) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        gone = [f"{path}.{key}" for key in before if key not in after and before[key] and key not in BESIDE_THE_SCHEMA]
        return gone + [one for key in before if key in after for one in lost(before[key], after[key], f"{path}.{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [one for at, pair in enumerate(zip(before, after)) for one in lost(*pair, f"{path}[{at}]")]
    return [] if before == after else [path]


def by_its_schema(dashboard: dict) -> list[str]:
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    return [f"Grafana's schema does not have {one}" for one in lost(dashboard, again, "")]


def main() -> int:
    dashboard = json.loads(DASHBOARD.read_text())
    rules = yaml.safe_load(pathlib.Path("deploy/prometheus/tokenward.rules.yml").read_text())
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    metrics = set(re.findall(r"`(tokenward_[a-z0-9_]+)`", pathlib.Path("docs/metrics.md").read_text()))
    known = metrics | {f"{name}_{end}" for name in metrics for end in ("bucket", "count", "sum")} | recorded | OTHERS
    problems = []
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        title, place = panel.get("title"), panel["gridPos"]
        if not title:
            problems.append(f"panel {panel['id']} has no title")
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
            if cell in taken or cell[0] >= 24:
                problems.append(f"{title}: in the place of {taken.get(cell, 'nothing')}")
                break
            taken[cell] = title
        if panel["type"] != "row" and not panel.get("targets"):
            problems.append(f"{title}: asks nothing")
        for target in panel.get("targets", []):
            for name in re.findall(r"\b(?:[a-z_]+:)?tokenward_[a-z0-9_:]+|\bprocess_[a-z_]+", target["expr"]):
                if name not in known:
                    problems.append(f"{title}: there is no metric {name}")
    try:
        problems += by_its_schema(dashboard)
    except ImportError:
        print("skip  Grafana's schema: grafana-foundation-sdk is not installed")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
