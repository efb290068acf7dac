#!/usr/bin/env python3
"""Prints the bill of materials of the program (CycloneDX 1.5): every crate that is linked in or takes part in its build.

    scripts/sbom.py [TARGET]

From `cargo metadata` and Cargo.lock: names, versions, licences, checksums and who needs whom. The same for the same commit:
its time is SOURCE_DATE_EPOCH, if that is set, and it has no serial number.
"""

import datetime
import json
import os
import subprocess
import sys
import tomllib


def main() -> None:
    target = sys.argv[1] if len(sys.argv) > 1 else "x86_64-unknown-linux-gnu"
    metadata = json.loads(subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target],
        capture_output=True, text=True, check=True,
    ).stdout)
    with open("Cargo.lock", "rb") as source:
        checksums = {(one["name"], one["version"]): one.get("checksum") for one in tomllib.load(source)["package"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    needs = {
        node["id"]: sorted(
            dependency["pkg"] for dependency in node["deps"]
            # A dependency of tests only is in no release.
            if any(kind["kind"] in (None, "build") for kind in dependency["dep_kinds"])
        )
        for node in metadata["resolve"]["nodes"]
    }
    root = next(package["id"] for package in packages.values() if package["name"] == "tokenward")
    reached, waiting = set(), [root]
    while waiting:
        if (one := waiting.pop()) not in reached:
            reached.add(one)
            waiting += needs[one]

    def reference(package_id: str) -> str:
        package = packages[package_id]
        return f"pkg:cargo/{package['name']}@{package['version']}"

    def component(package_id: str, kind: str) -> dict:
        package = packages[package_id]
        found = {"type": kind, "bom-ref": reference(package_id), "name": package["name"], "version": package["version"],
                 "purl": reference(package_id)}
        if package.get("description"):
            found["description"] = " ".join(package["description"].split())
        if package.get("license"):
            found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if checksum := checksums.get((package["name"], package["version"])):
            found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return found

    about = {"component": component(root, "application")}
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        stamp = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
        about = {"timestamp": stamp.strftime("%Y-%m-%dT%H:%M:%SZ")} | about
    others = sorted(reached - {root}, key=reference)
    print(json.dumps({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": about,
        "components": [component(one, "library") for one in others],
        "dependencies": [
            {"ref": reference(one), "dependsOn": sorted({reference(other) for other in needs[one]})}
            for one in [root, *others]
        ],
    }, indent=1))


if __name__ == "__main__":
    main()
