"""Starts the services of deploy/tour/compose.yaml as plain processes, walks the tour, and asks Prometheus every question of the
dashboard; run by check-tour.sh in namespaces of its own.

    tour_trial.py BINARIES           BINARIES: the folder with tokenward and entra-emulator

From the Compose file come each service's command, user, variables, volumes and names of hosts. Not from it: the programs, which are
Debian's for Redis, Prometheus and the prober, and the prober's own configuration. Grafana is not started; its files are checked.
"""

import hashlib
import http.cookiejar
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

TOUR = pathlib.Path("deploy/tour").resolve()
PROGRAMS = {"prometheus": ["/usr/bin/prometheus"], "prober": ["/usr/bin/prometheus-blackbox-exporter"]}
API = "http://127.0.0.1:7070"
STARTED: dict[str, subprocess.Popen] = {}


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def until(what: str, fact, seconds: float = 60):
    end = time.monotonic() + seconds
    while True:
        try:
            if found := fact():
                return found
        except (urllib.error.URLError, OSError, ValueError):
            pass
        for name, process in STARTED.items():
            if process.poll() is not None:
                sys.exit(f"FAIL  {name} ended with {process.returncode}")
        if time.monotonic() > end:
            sys.exit(f"FAIL  {what}: not within {seconds} s")
        time.sleep(0.2)


# ---- the services

def lay_out(folder: pathlib.Path, name: str, service: dict, hosts: dict[str, str], work: pathlib.Path,
            binaries: pathlib.Path) -> pathlib.Path:
    """The root of one service: the machine's programs, and what its Compose file in `folder` mounts."""
    root = work / f"root-{name}"
    root.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root))
    for place in ("usr", "proc", "dev", "etc/ssl", "tmp", "etc/blackbox_exporter", "bin2"):
        (root / place).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for place in ("lib", "lib64", "bin"):
        (root / place).symlink_to(f"usr/{place}")
    run("mount", "--bind", "/usr", str(root / "usr"))
    run("mount", "--bind", "/etc/ssl", str(root / "etc/ssl"))
    run("mount", "-t", "proc", "proc", str(root / "proc"))
    for device in ("null", "urandom", "random"):
        (root / "dev" / device).touch()
        run("mount", "--bind", f"/dev/{device}", str(root / "dev" / device))
    for program in ("tokenward", "entra-emulator"):
        (root / "bin2" / program).touch()
        run("mount", "--bind", str(binaries / program), str(root / "bin2" / program))
    (root / "tokenward").symlink_to("bin2/tokenward")
    lines = ["127.0.0.1 localhost", *(f"{at} {host}" for host, at in sorted(hosts.items()))]
    (root / "etc/hosts").write_text("\n".join(lines) + "\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files\n")
    (root / "etc/passwd").write_text("root:x:0:0::/:/none\ntokenward:x:65532:65532::/:/none\n")
    (root / "etc/group").write_text("root:x:0:\ntokenward:x:65532:\n")
    (root / "etc/blackbox_exporter/config.yml").write_text("modules: { http_2xx: { prober: http } }\n")
    for volume in service.get("volumes", []):
        source, target, *mode = volume.split(":")
        place = root / target.removeprefix("/")
        if source.startswith("."):
            source = (folder / source).resolve()
            (place if source.is_dir() else place.parent).mkdir(parents=True, exist_ok=True)
            if source.is_file():
                place.touch()
            run("mount", "--bind", str(source), str(place))
            if mode == ["ro"]:
                run("mount", "-o", "remount,bind,ro", str(place))
        else:
            place.mkdir(parents=True, exist_ok=True)
            user = int(service["user"].split(":")[0])
            os.chown(place, user, user)
            place.chmod(0o700)
    return root


def start(name: str, service: dict, root: pathlib.Path, logs: pathlib.Path, *entrypoint: str) -> None:
    user = service["user"]
    command = service.get("command", ["--config.file=/etc/blackbox_exporter/config.yml"])
    command = [*entrypoint, *PROGRAMS.get(name, []), *command]
    environment = {"PATH": "/bin2:/usr/bin", **service.get("environment", {})}
    STARTED[name] = subprocess.Popen(
        ["/usr/sbin/chroot", f"--userspec={user}", "--groups=", str(root), *command],
        env=environment, stdout=open(logs / name, "w"), stderr=subprocess.STDOUT,
    )


def inside(root: pathlib.Path, service: dict, *command: str) -> str:
    """`docker compose exec tokenward …`"""
    environment = {"PATH": "/bin2:/usr/bin", **service["environment"]}
    return run("/usr/sbin/chroot", "--userspec=65532:65532", "--groups=", str(root), *command, env=environment)


# ---- a browser that fills in forms

class Browser:
    def __init__(self, account: str):
        self.account = account
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def open(self, url: str, form: dict | None = None) -> tuple[str, str]:
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        origin = "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(url))
        request = urllib.request.Request(url, data, {"Origin": origin} if data else {})
        with self.opener.open(request, timeout=20) as answer:
            return answer.geturl(), answer.read().decode()

    def walk(self, url: str) -> str:
        """Presses the button of each page until there is none: of the account, where several may be chosen."""
        at, page = self.open(url)
        for _ in range(8):
            forms = re.findall(r"<form[^>]*>.*?</form>", page, flags=re.DOTALL)
            if not forms:
                return page
            # Every field, and one button: the account's, or else the first.
            tags = [dict(re.findall(r'([a-z-]+)="([^"]*)"', tag), tag=tag) for tag in re.findall(r"<(?:input|button)[^>]*>", forms[0])]
            buttons = [tag for tag in tags if tag["tag"].startswith("<button")]
            pressed = next((tag for tag in buttons if tag.get("value") == self.account), buttons[0])
            fields = {
                tag["name"]: tag.get("value", "").replace("&amp;", "&") for tag in tags
                if "name" in tag and (tag is pressed or tag not in buttons)
            }
            action = re.search(r'action="([^"]*)"', forms[0].split(">")[0])
            target = urllib.parse.urljoin(at, action.group(1).replace("&amp;", "&") if action else at)
            at, page = self.open(target, fields)
        sys.exit(f"FAIL  the browser does not come to an end at {at}")


def ask(path: str, key: str, body: dict | None = None, base: str = API) -> tuple[int, dict]:
    request = urllib.request.Request(
        base + path, json.dumps(body).encode() if body is not None else None, {"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def connect(key: str, connection: str, account: str) -> None:
    status, session = ask("/v1/connect-sessions", key, {"app": "outlook", "connection": connection})
    assert status == 201, session
    Browser(account).walk(session["connect_url"])
    status, seen = ask(f"/v1/connect-sessions/{session['id']}?wait=10", key)
    assert status == 200 and seen.get("account"), seen
    status, confirmed = ask(f"/v1/connect-sessions/{session['id']}/confirm", key, {
        "account": {name: seen["account"][name] for name in ("tid", "oid")}})
    assert status == 200, confirmed


# ---- the dashboard

def prometheus(path: str, **query: str) -> dict:
    url = f"http://127.0.0.1:9090/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.loads(answer.read())["data"]
    except urllib.error.HTTPError as error:
        return {"result": [], "error": json.loads(error.read())["error"]}


def questions() -> list[tuple[str, str]]:
    dashboard = json.loads(pathlib.Path("deploy/grafana/tokenward.json").read_text())
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$app", ".*").replace("$__rate_interval", "1m")
            assert "$" not in query, query
            found.append((f"{panel['title']} ({target['refId']})", query))
    return found


def main() -> None:
    binaries = pathlib.Path(sys.argv[1]).resolve()
    run("ip", "link", "set", "lo", "up")
    services = yaml.safe_load((TOUR / "compose.yaml").read_text())["services"]
    work = pathlib.Path(tempfile.mkdtemp(prefix="tour-"))
    work.chmod(0o755)
    roots = {}
    begun = time.monotonic()
    for name in ("emulator", "redis", "tokenward", "prometheus", "prober"):
        hosts = dict(host.split(":") for host in services[name].get("extra_hosts", []))
        roots[name] = lay_out(TOUR, name, services[name], hosts, work, binaries)
        start(name, services[name], roots[name], work)
    root = roots["tokenward"]
    try:
        until("/readyz", lambda: urllib.request.urlopen("http://127.0.0.1:9464/readyz", timeout=5).status == 200)
        key = (root / "var/lib/tokenward/tour.key").read_text().strip()
        for connection, account in (("user-1", "alice@contoso.example"), ("user-2", "bob@fabrikam.example"),
                                    ("user-3", "carol@outlook.example")):
            connect(key, connection, account)
        print("ok    tour: three users connected through the pages")
        # The commands of the Compose file's head, but `connect`, whose browser is above.
        for line in (TOUR / "compose.yaml").read_text().splitlines():
            if (command := line.removeprefix("#   docker compose exec tokenward ")) != line and " connect " not in command:
                inside(root, services["tokenward"], *shlex.split(command.split(" #")[0]))
        print(f"ok    tour: its commands, {time.monotonic() - begun:.0f} s after the start")

        # A part of the relay is given on, and used beside its giver's own requests.
        here = "/v1/apps/outlook/connections/user-1"
        status, made = ask(f"{here}/handles", key, {"ttl": 600, "relay": ["GET graph:/v1.0/me/messages*"]})
        assert status == 201, made
        for bearer, path in [(key, "me"), (key, "me/messages"), (made["handle"], "me/messages"), (made["handle"], "me")]:
            status, answer = ask(f"{here}/relay/graph/v1.0/{path}", bearer)
            assert status == (403 if (bearer, path) == (made["handle"], "me") else 200), (path, answer)
        took = until("the webhook took events", lambda: ask("/_emulator/events", "", base="http://127.0.0.1:8400")[1])
        assert {event["type"] for event in took} == {"connection.connected"}, took
        print("ok    tour: requests relayed, one by a handle; its webhook takes events")

        # Something of everything: answers, refusals, refreshes, a user who must sign in again.
        status, _ = ask("/_emulator/users/bob@fabrikam.example/revoke", "", {"kind": "grant_revoked"}, "http://127.0.0.1:8400")
        assert status == 200, status
        served, refused = {}, time.monotonic()
        end = time.monotonic() + 75
        while time.monotonic() < end:
            for name in ("user-1", "user-2", "user-3", "nobody"):
                path = f"/v1/apps/outlook/connections/{name}/token"
                status, answer = ask(path, key)
                if status == 200 and name != "user-3" and time.monotonic() > refused:
                    # As a caller does whom Graph answers 401: the token is refreshed.
                    status, answer = ask(path, key, {"rejected": hashlib.sha256(answer["access_token"].encode()).hexdigest()})
                served[answer.get("code", status)] = served.get(answer.get("code", status), 0) + 1
            status, _ = ask(f"{here}/relay/graph/v1.0/me/messages", made["handle"])
            assert status == 200, status
            refused = time.monotonic() + 5 if time.monotonic() > refused else refused
            time.sleep(0.5)
        assert set(served) == {200, "connection_not_found", "reauthorization_required"}, served
        print(f"ok    tour: asked for tokens: {served}")
        targets = prometheus("targets")["activeTargets"]
        assert targets and all(target["health"] == "up" for target in targets), targets
        assert prometheus("query", query='probe_success{job="tokenward-readiness"}')["result"][0]["value"][1] == "1"
        rules = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
        broken = [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"]
        assert not broken, broken
        print(f"ok    tour: {len(targets)} targets are up, {len(rules)} rules are evaluated")
        silent = []
        for title, query in questions():
            answer = prometheus("query", query=query)
            if not answer["result"] or all(one["value"][1] == "NaN" for one in answer["result"]):
                silent.append((title, answer.get("error", "no data"), query))
            if os.environ.get("VERBOSE"):
                print(title, [(one["metric"], one["value"][1]) for one in answer["result"]][:6])
        for one in silent:
            print("FAIL ", *one, sep="\n      ")
        if silent:
            sys.exit(1)
        print(f"ok    dashboard: each of its {len(questions())} questions has an answer with data")
        for process in STARTED.values():
            process.terminate()
        assert STARTED["tokenward"].wait(45) == 0
    except BaseException:
        for name in STARTED:
            print(f"--- {name}\n{(work / name).read_text()[-1500:]}", file=sys.stderr)
        raise


if __name__ == "__main__":
    try:
        main()
    finally:
        for one in STARTED.values():
            one.kill()
