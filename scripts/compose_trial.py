"""Starts the services of deploy/compose as plain processes, as its head says to; run by check-tour.sh in namespaces of its own.

    compose_trial.py BINARIES        BINARIES: the folder with tokenward and entra-emulator

On a copy of deploy/: prepare.sh, a sealing key, a caller's key, a client secret, `check`; then Redis with its ACL, tokenward,
Prometheus and the prober, each as its own user with just the files that the Compose file gives it. Microsoft is not reached.
"""

import http.client
import json
import os
import pathlib
import shutil
import socket
import sys
import tempfile

import yaml

from tour_trial import STARTED, inside, lay_out, prometheus, run, start, until


class OverSocket(http.client.HTTPConnection):
    def __init__(self, path: pathlib.Path):
        super().__init__("localhost")
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


def main() -> None:
    binaries = pathlib.Path(sys.argv[1]).resolve()
    run("ip", "link", "set", "lo", "up")
    work = pathlib.Path(tempfile.mkdtemp(prefix="compose-"))
    work.chmod(0o755)
    shutil.copytree("deploy", work / "deploy", ignore=shutil.ignore_patterns("etc", "secrets", "audit"))
    folder = work / "deploy/compose"
    run(str(folder / "prepare.sh"))
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    hosts = {name: "127.0.0.1" for name in services}
    try:
        # `docker compose run --rm setup …`
        setup = services["setup"]
        root = lay_out(folder, "setup", setup, hosts, work, binaries)
        inside(root, setup, "/tokenward", "keyring", "add")
        key = inside(root, setup, "/tokenward", "callers", "add-key", "mail-sync").strip()
        secret = folder / "etc/credentials/outlook-first"
        secret.write_text("a-secret")
        secret.chmod(0o600)
        os.chown(secret, 65532, 65532)
        inside(root, setup, "/tokenward", "check")
        print("ok    compose: prepared, and its configuration is good")
        roots = {}
        for name in ("redis", "tokenward", "prometheus", "prober"):
            roots[name] = lay_out(folder, name, services[name], hosts, work, binaries)
            entrypoint = ["/tokenward"] if name == "tokenward" else []
            start(name, services[name], roots[name], work, *entrypoint)
        until("/readyz, as the prober sees it", lambda: prometheus("query", query="probe_success == 1")["result"], 90)
        up = prometheus("query", query='up{job="tokenward"} == 1')["result"]
        assert len(up) == 1, up
        api = OverSocket(roots["tokenward"] / "run/tokenward/tokenward.sock")
        api.request("GET", "/v1/apps/outlook/connections/team-a%2Fuser-1/token", headers={"Authorization": f"Bearer {key}"})
        answer = json.loads(api.getresponse().read())
        assert answer["code"] == "connection_not_found", answer
        inside(roots["tokenward"], services["tokenward"], "/tokenward", "connections", "list", "outlook")
        assert (folder / "audit/audit.jsonl").stat().st_size > 0
        for process in STARTED.values():
            process.terminate()
        assert STARTED["tokenward"].wait(45) == 0
        print("ok    compose: started, ready as Prometheus sees it, a caller is known, audited, stopped in order")
    except BaseException:
        for name in STARTED:
            print(f"--- {name}\n{(work / name).read_text()[-2500:]}", file=sys.stderr)
        raise
    finally:
        for one in STARTED.values():
            one.kill()


if __name__ == "__main__":
    main()
