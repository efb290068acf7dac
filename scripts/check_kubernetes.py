#!/usr/bin/env python3
"""Renders every overlay of deploy/kubernetes and checks what comes out; run by check-kubernetes.sh.

Kubernetes' own kinds are validated against its schemas (the package kubernetes-validate of PyPI), those of the Prometheus operator
against the schemas of its CRDs (@kubernetes-models/prometheus-operator of npm). Then the rules that no schema knows: what the pod
may do, which files it gets and with which mode, and that the daemon's own rendered configuration names just those files.

    check_kubernetes.py --write          writes monitoring/prometheusrule.yaml from deploy/prometheus/tokenward.rules.yml
    check_kubernetes.py --unpack DIR     also writes into DIR each overlay as OVERLAY.yaml, its configuration and its variables
"""

import argparse
import base64
import json
import pathlib
import shutil
import subprocess
import sys

import yaml

HERE = pathlib.Path("deploy/kubernetes")
OVERLAYS = ["embedded", "redis", "redis-cluster"]
RULES = pathlib.Path("deploy/prometheus/tokenward.rules.yml")
RULE_OBJECT = HERE / "monitoring/prometheusrule.yaml"
# The newest schemas are of 1.37; the sleep of preStop is there from 1.30 on.
VERSIONS = ["1.30", "1.37"]
NODE_MODULES = pathlib.Path("target/interop/deploy-node/node_modules")

VALIDATE_OPERATOR = """
import * as operator from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { readFileSync } from "node:fs";
for (const object of JSON.parse(readFileSync(0))) {
    const kind = operator[object.kind];
    if (!kind) throw new Error("no schema for " + object.kind);
    new kind(object).validate();
}
"""


def rule_object() -> str:
    """The rules as an object of the Prometheus operator: the same text, two levels further in."""
    text = RULES.read_text()
    groups = text[text.index("groups:\n") + len("groups:\n"):]
    head = (
        "# Made from deploy/prometheus/tokenward.rules.yml: change that, then run `make kubernetes-rules`.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: tokenward\n  namespace: tokenward\n"
        "  labels:\n    app.kubernetes.io/name: tokenward\nspec:\n  groups:\n"
    )
    return head + "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))


def renderer() -> list[str]:
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return command
    sys.exit("neither kustomize nor kubectl is installed")


def render(overlay: str) -> list[dict]:
    done = subprocess.run([*renderer(), str(HERE / "overlays" / overlay)], capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stderr.strip():
        sys.exit(f"{overlay}: {done.stderr}")
    return list(yaml.safe_load_all(done.stdout))


def validate(objects: list[dict]) -> list[str]:
    import kubernetes_validate

    problems = []
    operator = [one for one in objects if one["apiVersion"].startswith("monitoring.coreos.com/")]
    for one in objects:
        if one in operator:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                problems.append(f"{one['kind']} {one['metadata']['name']}, Kubernetes {version}: {error.message}")
    done = subprocess.run(
        ["node", "--input-type=module", "-e", VALIDATE_OPERATOR], input=json.dumps(operator), capture_output=True, text=True, check=False,
        cwd=NODE_MODULES.parent,
    )
    if done.returncode != 0:
        problems.append(f"Prometheus operator: {done.stderr}")
    return problems


def pod_of(objects: list[dict]) -> dict:
    return next(one for one in objects if one["kind"] == "StatefulSet")["spec"]["template"]["spec"]


def rules(overlay: str, objects: list[dict]) -> list[str]:
    """What no schema knows."""
    problems = []

    def hold(fact: bool, what: str) -> None:
        if not fact:
            problems.append(what)

    by_kind = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    wanted = {"StatefulSet", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PrometheusRule", "ServiceAccount"}
    for kind in sorted(wanted - {one["kind"] for one in objects}):
        problems.append(f"no {kind}")
    hold(not any(one["kind"] == "Secret" for one in objects), "a Secret in the repository")
    hold(all(one["metadata"].get("namespace") == "tokenward" for one in objects if one["kind"] != "Namespace"), "namespace")

    sets = by_kind["StatefulSet", "tokenward"]["spec"]
    pod = pod_of(objects)
    container, = pod["containers"]
    hold(pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0, "runs as root")
    hold(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "seccompProfile")
    hold(container["securityContext"]["readOnlyRootFilesystem"] is True, "readOnlyRootFilesystem")
    hold(container["securityContext"]["allowPrivilegeEscalation"] is False, "allowPrivilegeEscalation")
    hold(container["securityContext"]["capabilities"]["drop"] == ["ALL"], "capabilities")
    hold(pod["automountServiceAccountToken"] is False, "the default token is mounted")
    hold(sets["replicas"] == (1 if overlay == "embedded" else 3), "replicas")
    ops = next(port["name"] for port in container["ports"] if port["containerPort"] == 9464)
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/livez"), ("startupProbe", "/livez")):
        hold(container[probe]["httpGet"] == {"path": path, "port": ops}, probe)
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    hold(pod["terminationGracePeriodSeconds"] >= sleep + 30 + 10, "the grace period is shorter than preStop and drain")
    for variable in container.get("env", []):
        hold("value" in variable and not variable["name"].endswith("PASSWORD"), f"{variable['name']} belongs in a file")

    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in sets["volumeClaimTemplates"]}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    hold(mounted == set(volumes) | claims, f"mounted {sorted(mounted)}, there are {sorted(set(volumes) | claims)}")
    for mount in container["volumeMounts"]:
        hold("subPath" not in mount, f"{mount['name']}: a subPath does not change with its Secret")
        if mount["name"] in volumes and "emptyDir" not in volumes[mount["name"]]:
            hold(mount.get("readOnly") is True, f"{mount['name']}: not read-only")
    for name, volume in volumes.items():
        for kind in ("secret", "projected"):
            hold(kind not in volume or volume[kind]["defaultMode"] == 0o400, f"{name}: defaultMode")

    # Every service leads to a port of the pod, and every selector to the pods.
    labels = sets["template"]["metadata"]["labels"].items()
    ports = {port["name"] for port in container["ports"]}
    for (kind, name), one in by_kind.items():
        if kind == "Service":
            hold(one["spec"]["selector"].items() <= labels, f"service {name}: selector")
            hold(all(port["targetPort"] in ports for port in one["spec"]["ports"]), f"service {name}: port")
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        hold(by_kind[kind, "tokenward"]["spec"][key]["matchLabels"].items() <= labels, f"{kind}: selector")
    monitor = by_kind["ServiceMonitor", "tokenward"]["spec"]
    scraped = by_kind["Service", "tokenward-ops"]
    hold(monitor["selector"]["matchLabels"].items() <= scraped["metadata"]["labels"].items(), "ServiceMonitor: selector")
    hold(monitor["endpoints"][0]["port"] in {port["name"] for port in scraped["spec"]["ports"]}, "ServiceMonitor: port")
    hold(scraped["metadata"]["labels"][monitor["jobLabel"]] == "tokenward", "the job is not the one of the rules")

    groups = by_kind["PrometheusRule", "tokenward"]["spec"]["groups"]
    hold(groups == yaml.safe_load(RULES.read_text())["groups"], "PrometheusRule: other rules than in deploy/prometheus")
    dashboard = by_kind["ConfigMap", "tokenward-dashboard"]["data"]["tokenward.json"]
    hold(dashboard == pathlib.Path("deploy/grafana/tokenward.json").read_text(), "another dashboard than in deploy/grafana")
    return problems


def caller_rules(objects: list[dict]) -> list[str]:
    """The example of a caller: what its variables name is in its volumes."""
    pod = next(one for one in objects if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    container, = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    files = {
        f"{mounts[volume['name']]}/{path}"
        for volume in pod["volumes"] for source in volume["projected"]["sources"] for kind in source.values()
        for path in ([kind["path"]] if "path" in kind else [item["path"] for item in kind["items"]])
    }
    named = {one["value"] for one in container["env"] if one["value"].startswith("/")}
    return [f"{name} is in no volume: {sorted(files)}" for name in sorted(named - files)] + ([] if named else ["no file is named"])


def unpack(overlay: str, objects: list[dict], into: pathlib.Path) -> None:
    """What the pod gets, for check-kubernetes.sh: its configuration, its variables, and its files with who makes them."""
    folder = into / overlay
    folder.mkdir(parents=True)
    (into / f"{overlay}.yaml").write_text(yaml.safe_dump_all(objects))
    config = next(one for one in objects if (one["kind"], one["metadata"]["name"]) == ("ConfigMap", "tokenward"))
    for name, content in config["data"].items():
        (folder / name).write_text(content)
    for name, content in config.get("binaryData", {}).items():
        (folder / name).write_bytes(base64.b64decode(content))
    container, = pod_of(objects)["containers"]
    variables = "".join(f"{one['name']}={one['value']}\n" for one in container.get("env", []))
    (folder / "environment").write_text(variables)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    pod = pod_of(objects)
    ending = {"preStop": container["lifecycle"]["preStop"]["sleep"]["seconds"], "grace": pod["terminationGracePeriodSeconds"]}
    (folder / "ending").write_text(json.dumps(ending))
    (folder / "mounts").write_text("".join(f"{name} {path}\n" for name, path in sorted(mounts.items())))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--unpack", type=pathlib.Path)
    options = parser.parse_args()
    if options.write:
        RULE_OBJECT.write_text(rule_object())
        return 0
    problems = []
    if RULE_OBJECT.read_text() != rule_object():
        problems.append(f"{RULE_OBJECT} is out of date: make kubernetes-rules")
    for overlay in OVERLAYS:
        objects = render(overlay)
        # What is not of its kind's shape cannot be looked into.
        problems += [f"{overlay}: {problem}" for problem in validate(objects) or rules(overlay, objects)]
        if options.unpack:
            unpack(overlay, objects, options.unpack)
    caller = list(yaml.safe_load_all((HERE / "caller.yaml").read_text()))
    problems += [f"caller.yaml: {problem}" for problem in validate(caller) or caller_rules(caller)]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
