"""The world of alerts_trial.py: two replicas of tokenward on one Redis, the emulator as their authority, a Prometheus that scrapes
them with the rules loaded, and callers who ask for tokens all the while. Every process is a real one, and of the machine's programs.
"""

import base64
import datetime
import hashlib
import json
import pathlib
import re
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import yaml

from alert_parts import ISSUER_PORTS, RECEIVER_PORT, Authority, Flood, Issuer, Load, Receiver, Replica, run, token_path, until, write
from scaled_rules import FACTOR, scaled
from tour_trial import Browser, ask

SCRAPE_SECONDS = 0.5
RULES = pathlib.Path("deploy/prometheus/tokenward.rules.yml")

TENANTS, USERS_EACH = 16, 10
# A token is renewed once a quarter of its life is over, since callers want five minutes of it; it is handed out until its end.
TOKEN_SECONDS, ARCHIVE_TOKEN_SECONDS = 60, 20
EMULATOR = "http://127.0.0.1:8400"
REDIS_PORT = 6380


class World:
    def __init__(self, folder: pathlib.Path, binaries: pathlib.Path, logs: pathlib.Path):
        self.folder, self.binaries, self.logs, self.shared = folder, binaries, logs, folder / "shared"
        self.processes: dict[str, subprocess.Popen] = {}
        self.names = [f"t{tenant:02}/u{user}" for tenant in range(TENANTS) for user in range(USERS_EACH)]
        self.extra = ""
        self.issuers = ["cluster"]
        self.secrets_made, self.credential = 0, "secret-0"
        self.credentials: list[tuple[str, float | None]] = [(self.credential, 400)]
        for name in ("credentials", "callers", "tls", "store"):
            (self.shared / name).mkdir(parents=True)
        self.write_credential(self.credential, "the-first-value")
        self.replicas = [Replica(self, number) for number in (0, 1)]
        self.load = Load(self)

    # -- starting

    def start(self) -> None:
        self.start_emulator()
        self.start_redis()
        with urllib.request.urlopen(f"{EMULATOR}/common/discovery/v2.0/keys", timeout=20) as answer:
            keys = answer.read()
        self.issuer = {name: Issuer(name, keys) for name in ISSUER_PORTS}
        self.issuer["cluster"].start()
        self.receiver = Receiver()
        self.receiver.start()
        write(self.shared / "webhook", "whsec_" + base64.b64encode(b"the secret of the webhook").decode())
        self.callers_ca = Authority(self.folder / "callers-ca", "callers' authority")
        self.next_ca = Authority(self.folder / "next-ca", "callers' next authority")
        self.listener_certificate(400)
        write(self.shared / "tls/listener.key", (self.callers_ca.folder / "listener.key").read_bytes())
        self.client_authorities(400)
        self.revocations(720)
        for replica in self.replicas:
            self.configure_one(replica)
        a, b = self.replicas
        a.command("keyring", "add")
        run("cp", "-a", a.folder / "keyring", b.folder / "keyring")
        self.key = a.command("callers", "add-key", "sync").strip()
        self.add_key(365 * 24)
        for replica in self.replicas:
            replica.start()
        for name in self.names:
            self.connect("outlook", name, self.user(name))
        self.connect("outlook", "spare", "spare@spare.example")
        self.connect("outlook", "told", "told@spare.example")
        self.connect("archive", "all", "all@archive.example")
        self.load.start()
        self.start_prober()
        self.start_prometheus()

    def spawn(self, name: str, *command: object) -> None:
        log = open(self.logs / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, start_new_session=True)

    def start_emulator(self) -> None:
        def app(name: str, secret: str) -> dict:
            return {"client_id": f"{name}-client", "secrets": [secret],
                    "redirect_uris": [f"http://localhost:8080/callback/{name}"]}

        users = [{"upn": self.user(name), "token_lifetime_seconds": TOKEN_SECONDS} for name in self.names]
        users += [{"upn": f"{name}@spare.example", "token_lifetime_seconds": 3600} for name in ("spare", "told")]
        users.append({"upn": "all@archive.example", "token_lifetime_seconds": ARCHIVE_TOKEN_SECONDS})
        write(self.shared / "credentials/archive", "the-archives-secret")
        write(self.folder / "emulator.json", json.dumps(
            {"apps": [app("outlook", "the-first-value"), app("archive", "the-archives-secret")], "users": users}))
        self.spawn("emulator", self.binaries / "entra-emulator", "--listen", "127.0.0.1:8400", "--interactive",
                   "--config", self.folder / "emulator.json")
        until("the emulator answers", lambda: self.emulator("GET", "health"))

    def start_redis(self) -> None:
        if not (self.folder / "redis").exists():
            self.redis_ca = Authority(self.folder / "redis-ca", "Redis' authority")
            self.redis_ca.issue("server", 400)
            self.store_certificate(400)
            self.redis_ca.issue("operator", 400)
            write(self.shared / "store/client.key", (self.redis_ca.folder / "client.key").read_bytes())
            write(self.shared / "store/ca.crt", (self.redis_ca.folder / "ca.crt").read_bytes())
            write(self.shared / "store/password", "the-password-of-the-store")
            (self.folder / "redis").mkdir()
            # As deployed, with a user who may do everything beside.
            hashed = hashlib.sha256(b"the-password-of-the-store").hexdigest()
            acl = pathlib.Path("deploy/compose/redis.acl").read_text()
            acl = re.sub(r"^#.*\n", "", acl, flags=re.MULTILINE).replace("@PASSWORD_SHA256@", hashed)
            acl = acl.replace("@OPERATOR_SHA256@", "0" * 64) + "user trial on nopass ~* &* +@all\n"
            (self.folder / "redis/users.acl").write_text(acl)
        own = self.redis_ca.folder
        self.spawn("redis", "redis-server", "--bind", "127.0.0.1", "--port", 0, "--tls-port", REDIS_PORT,
                   "--tls-cert-file", own / "server.crt", "--tls-key-file", own / "server.key",
                   "--tls-ca-cert-file", own / "ca.crt", "--tls-auth-clients", "yes",
                   "--aclfile", self.folder / "redis/users.acl", "--dir", self.folder / "redis", "--save", "",
                   "--appendonly", "yes", "--maxmemory", "128mb", "--maxmemory-policy", "noeviction")
        until("Redis answers", lambda: self.redis("PING") == "PONG")

    def start_prober(self) -> None:
        write(self.folder / "prober.yml", "modules: { http_2xx: { prober: http } }\n")
        self.spawn("prober", "prometheus-blackbox-exporter", f"--config.file={self.folder}/prober.yml",
                   "--web.listen-address=127.0.0.1:9115", "--timeout-offset=0.05")

    def start_prometheus(self) -> None:
        """With the jobs of deploy/compose, other intervals, and targets that can be taken away."""
        rules = self.folder / "rules.yml"
        rules.write_text(scaled(RULES.read_text()))
        run("promtool", "check", "rules", rules)
        config = yaml.safe_load(pathlib.Path("deploy/compose/prometheus.yml").read_text())
        pause = f"{SCRAPE_SECONDS * 1000:.0f}ms"
        config["global"] = {"scrape_interval": pause, "scrape_timeout": pause, "evaluation_interval": "250ms"}
        config["rule_files"] = [str(rules)]
        for job in config["scrape_configs"]:
            del job["static_configs"]
            job["file_sd_configs"] = [{"files": [f"{self.folder}/targets-{job['job_name']}.json"]}]
            for relabel in job.get("relabel_configs", []):
                if relabel.get("replacement") == "prober:9115":
                    relabel["replacement"] = "127.0.0.1:9115"
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.discover(self.replicas)
        self.spawn("prometheus", "prometheus", f"--config.file={self.folder}/prometheus.yml", "--log.level=warn",
                   f"--storage.tsdb.path={self.folder}/prometheus", "--web.listen-address=127.0.0.1:9090",
                   "--query.lookback-delta=3s")
        until("Prometheus sees both replicas ready", lambda: len(self.query("probe_success == 1 and on (instance) up == 1")) == 2)

    def discover(self, replicas: list[Replica]) -> None:
        """Tells Prometheus which replicas there are. It takes that up within some seconds."""
        for job, form in (("tokenward", "127.0.0.1:{}"), ("tokenward-readiness", "http://127.0.0.1:{}/readyz")):
            targets = [{"targets": [form.format(replica.ops) for replica in replicas]}] if replicas else []
            write(self.folder / f"targets-{job}.json", json.dumps(targets))

    def until_unknown(self) -> None:
        until("Prometheus knows no replica", lambda: not self.query("up"))

    def until_known(self, series: str, hours_ago: int) -> None:
        """Waits until Prometheus has what the rules compare with, in their shorter times."""
        earlier = f"{series} offset {hours_ago * 3600 // FACTOR}s"
        until(f"Prometheus knows {earlier}", lambda: self.query(earlier), 600)

    def stop(self) -> None:
        self.load.stopped = True
        own = [replica.process for replica in self.replicas if replica.process]
        for process in [*own, *self.processes.values()]:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    # -- what is configured

    def user(self, name: str) -> str:
        tenant, user = name.split("/")
        return f"{user}@{tenant}.example"

    @staticmethod
    def write(path: pathlib.Path, content: str) -> None:
        write(path, content)

    @staticmethod
    def flood(replica: Replica) -> Flood:
        return Flood(replica)

    def write_credential(self, name: str, value: str) -> None:
        write(self.shared / "credentials" / name, value)

    def configure(self, **changes: object) -> None:
        """Writes the configuration of both replicas anew; each takes it up within a second or two."""
        for name, value in changes.items():
            assert hasattr(self, name), name
            setattr(self, name, value)
        for replica in self.replicas:
            self.configure_one(replica)

    def configure_one(self, replica: Replica) -> None:
        def app(name: str, credentials: list[tuple[str, float | None]]) -> str:
            text = f"""
[apps.{name}]
client_id = "{name}-client"
authority = "{EMULATOR}/common/v2.0"
scopes = ["offline_access", "openid", "profile", "User.Read", "Mail.Read"]
tenants = ["*"]
home_tenant = "t00.example"
"""
            for credential, days in credentials:
                expires = "" if days is None else f"expires = {in_days(days)}\n"
                text += f'[[apps.{name}.credentials]]\nid = "{credential}"\nkind = "secret"\n{expires}'
                text += f'file = "{self.shared}/credentials/{credential}"\n'
            return text

        issuers = "".join(f"""
[issuers.{name}]
issuer = "http://127.0.0.1:{ISSUER_PORTS[name]}"
jwks_url = "http://127.0.0.1:{ISSUER_PORTS[name]}/keys"
audience = "tokenward-at-{name}"
""" for name in self.issuers)
        bearers = "".join(f', {{ jwt = {{ issuer = "{name}", subject = "sync" }} }}' for name in self.issuers)
        rules = "".join(f"""
[[callers.sync.allow]]
app = "{app_}"
connections = ["*"]
bulk = true
scopes = ["*"]
connect = true
""" for app_ in ("outlook", "archive"))
        tls, store = self.shared / "tls", self.shared / "store"
        write(replica.config, f"""
[store]
kind = "redis"
url = "rediss://127.0.0.1:{REDIS_PORT}/0"
username = "tokenward"
password_file = "{store}/password"
ca_file = "{store}/ca.crt"
client_certificate = "{store}/client.crt"
client_key = "{store}/client.key"
serve_cached_for = "{300 // FACTOR}s"
journal = "journal"
[sealing]
keyring = "keyring"
[listen.public]
address = "127.0.0.1:{replica.public}"
base_url = "http://localhost:8080"
[[listen.local]]
address = "127.0.0.1:{replica.local}"
[[listen.local]]
address = "127.0.0.1:{replica.tls}"
tls = {{ certificate = "{tls}/listener.crt", key = "{tls}/listener.key", client_ca = "{tls}/ca.crt", client_crl = "{tls}/ca.crl" }}
[[listen.admin]]
unix = "admin.sock"
[listen.ops]
address = "127.0.0.1:{replica.ops}"
[audit]
path = "audit/audit.jsonl"
[webhooks.product]
url = "http://127.0.0.1:{RECEIVER_PORT}/events"
secret_file = "{self.shared}/webhook"
allow_private = true
{self.extra}
{app("outlook", self.credentials)}
{app("archive", [("archive", 400)])}
{issuers}
[callers.sync]
authenticate = [{{ api_keys = "{self.shared}/callers/sync.keys" }}{bearers}]
{rules}
[callers.night-job]
authenticate = [{{ api_keys = "{self.shared}/callers/night-job.keys" }}]
""")

    def listener_certificate(self, days: int) -> None:
        write(self.shared / "tls/listener.crt", self.callers_ca.issue("listener", days))

    def client_authorities(self, days: int) -> None:
        """Two authorities, as while one replaces the other; the first ends in so many days."""
        write(self.shared / "tls/ca.crt", self.callers_ca.renew(days) + (self.next_ca.folder / "ca.crt").read_bytes())

    def revocations(self, hours: int) -> None:
        write(self.shared / "tls/ca.crl", self.callers_ca.revocations(hours) + self.next_ca.revocations(720))

    def store_certificate(self, days: int) -> None:
        write(self.shared / "store/client.crt", self.redis_ca.issue("client", days))

    def add_key(self, hours: int) -> None:
        """A new API key of the caller night-job; the ones before are retired."""
        a = self.replicas[0]
        before = json.loads(a.command("callers", "list-keys", "night-job", "--json")) if hasattr(self, "has_key") else []
        self.has_key = True
        a.command("callers", "add-key", "night-job", "--expires-in", f"{hours}h")
        for key in before:
            a.command("callers", "retire-key", "night-job", key["id"])

    # -- sealing keys

    def add_sealing_key(self) -> str:
        """A new one in both keyrings, which seals nothing yet."""
        a, b = self.replicas
        before = set((a.folder / "keyring").glob("*.key"))
        a.command("keyring", "add")
        (new,) = set((a.folder / "keyring").glob("*.key")) - before
        write(b.folder / "keyring" / new.name, new.read_bytes())
        return new.stem

    def promote(self, replica: Replica, key: str) -> None:
        """In one replica's keyring only. The command would ask for the others, so it is told not to."""
        until(f"{key} is known", lambda: key in replica.command("keyring", "status"))
        replica.command("keyring", "promote", "--unchecked", key)

    def primary(self, replica: Replica) -> str:
        """The key that seals there: the one that was promoted last."""
        promoted = {}
        for file in (replica.folder / "keyring").glob("*.key"):
            if at := re.search(r'^promoted_at = "(.*)"$', file.read_text(), flags=re.MULTILINE):
                promoted[at[1]] = file.stem
        return promoted[max(promoted)]

    def age_primary(self, replica: Replica, days: int) -> None:
        file = replica.folder / f"keyring/{self.primary(replica)}.key"
        write(file, re.sub(r'^created_at = ".*"$', f'created_at = "{in_days(-days)}"', file.read_text(), flags=re.MULTILINE))

    def hasten_sessions(self) -> None:
        """What is left of the lives of records that go by themselves is divided as the rules' times are."""
        for key in self.redis("--scan", "--pattern", "tokenward:*").splitlines():
            if (left := int(self.redis("PTTL", key))) > 0:
                self.redis("PEXPIRE", key, left // FACTOR)

    # -- secrets at the authority

    def new_secret(self, name: str = "") -> str:
        """Makes one at the authority and puts it into the file of this credential, or of a new one. Returns its name."""
        self.secrets_made += 1
        name = name or f"secret-{self.secrets_made}"
        value = f"the-value-number-{self.secrets_made}"
        self.emulator("POST", "apps/outlook-client/secrets", value)
        self.write_credential(name, value)
        return name

    def delete_secret(self, name: str) -> None:
        value = (self.shared / "credentials" / name).read_text()
        self.emulator("POST", "apps/outlook-client/secrets/remove", {"secret": value})

    def retire(self, name: str) -> None:
        # Refused until each replica has reported that another one works.
        until(f"{name} is retired", lambda: self.replicas[0].command("credentials", "retire", "outlook", name) or True)
        until(f"{name} is retired everywhere", lambda: self.states("retired").get(name) == 2)

    def states(self, state: str) -> dict[str, int]:
        """The credentials in this state, and at how many replicas."""
        found: dict[str, int] = {}
        for one in self.query(f'tokenward_credential_state{{app="outlook",state="{state}"}} == 1'):
            found[one["metric"]["credential"]] = found.get(one["metric"]["credential"], 0) + 1
        return found

    def until_proven(self, *names: str) -> None:
        def proven() -> bool:
            works = {**self.states("proven"), **self.states("in_use")}
            # (One that is tried first has that state too if it is rejected.)
            return all(works.get(name, 0) == 2 and name not in self.states("rejected") for name in names)

        until(f"{names} are proven", proven)

    def credential_in_use(self) -> str:
        (name,) = until("one is in use everywhere", lambda: [name for name, times in self.states("in_use").items() if times == 2])
        return name

    # -- the store's faults

    def damage(self, name: str) -> None:
        """Overwrites what is sealed in a record, and asks for its token where it is in no memory."""
        record = f"tokenward:{{outlook:{name}}}"
        self.redis("COPY", record, f"trial:{name}", "REPLACE")
        head = 55  # src/store/record.rs
        self.redis("EVAL", "return redis.call('SETRANGE', KEYS[1], ARGV[1], string.rep('x', redis.call('STRLEN', KEYS[1]) - ARGV[1]))",
                   1, record, head)
        until("the damage is noticed", lambda: self.ask_at(self.replicas[1], name) >= 500)

    def undo_damage(self, name: str) -> None:
        self.redis("COPY", f"trial:{name}", f"tokenward:{{outlook:{name}}}", "REPLACE")
        until("the record is good again", lambda: self.ask_at(self.replicas[1], name) == 200)

    def ask_at(self, replica: Replica, name: str) -> int:
        return ask(token_path("outlook", name), self.key, base=f"http://127.0.0.1:{replica.local}")[0]

    def freeze_redis(self) -> None:
        self.processes["redis"].send_signal(signal.SIGSTOP)

    def thaw_redis(self) -> None:
        self.processes["redis"].send_signal(signal.SIGCONT)

    def kill_redis(self) -> None:
        self.processes["redis"].kill()
        self.processes["redis"].wait()

    # -- asking

    def emulator(self, method: str, path: str, body: object = None) -> dict:
        data = json.dumps(body).encode() if body is not None else (b"{}" if method == "POST" else None)
        request = urllib.request.Request(f"{EMULATOR}/_emulator/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"{}")

    def break_authority(self, fault: object, **which: str) -> None:
        self.emulator("POST", "faults", {"endpoint": "token", "fault": fault, **which})

    def mend_authority(self) -> None:
        self.emulator("DELETE", "faults")

    def redis(self, *words: object) -> str:
        own = self.redis_ca.folder
        return run("redis-cli", "-p", REDIS_PORT, "--tls", "--cacert", own / "ca.crt", "--cert", own / "operator.crt",
                   "--key", own / "operator.key", "--user", "trial", "--pass", "none", "--no-auth-warning", *words).strip()

    def query(self, expression: str) -> list[dict]:
        url = f"http://127.0.0.1:9090/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.loads(answer.read())["data"]["result"]

    def firing(self) -> set[str]:
        return {one["metric"]["alertname"] for one in self.query('ALERTS{alertstate="firing"}')}

    def pending(self) -> set[str]:
        return {one["metric"]["alertname"] for one in self.query('ALERTS{alertstate="pending"}')}

    def fired_within(self, seconds: float) -> dict[str, set[str]]:
        """The alerts that fired within the last seconds, with what tells one from another."""
        found: dict[str, set[str]] = {}
        window = max(int(seconds * 1000), 500)
        for one in self.query(f'count_over_time(ALERTS{{alertstate="firing"}}[{window}ms])'):
            labels = one["metric"]
            told = {name: value for name, value in labels.items()
                    if name not in ("__name__", "alertname", "alertstate", "severity")}
            found.setdefault(labels["alertname"], set()).add(json.dumps(told))
        return found

    def connect(self, app: str, name: str, account: str) -> None:
        status, session = ask("/v1/connect-sessions", self.key, {"app": app, "connection": name})
        assert status == 201, session
        Browser(account).walk(session["connect_url"])
        status, seen = ask(f"/v1/connect-sessions/{session['id']}?wait=10", self.key)
        assert status == 200 and seen.get("account"), seen
        status, confirmed = ask(f"/v1/connect-sessions/{session['id']}/confirm", self.key, {
            "account": {part: seen["account"][part] for part in ("tid", "oid")}})
        assert status == 200, confirmed

    def report_refused(self, name: str) -> tuple[int, dict]:
        """As a caller does whose token Graph has answered 401: the grant is tried at once."""
        status, answer = ask(token_path("outlook", name), self.key)
        if status != 200:
            return status, answer
        digest = hashlib.sha256(answer["access_token"].encode()).hexdigest()
        return ask(token_path("outlook", name), self.key, {"rejected": digest})


BEGUN = datetime.datetime.now(datetime.timezone.utc)


def in_days(days: float) -> str:
    at = BEGUN + datetime.timedelta(days=days)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
