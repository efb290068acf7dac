"""Starts the daemon of one overlay as its pod would; run by check-kubernetes.sh in namespaces of its own. With the overlay `redis`
it then rolls two replicas over behind a balancer, under load.

    kubernetes_trial.py OVERLAY DIR BINARY       DIR: what check_kubernetes.py unpacked
"""

import base64
import hashlib
import http.client
import http.server
import itertools
import json
import os
import pathlib
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

USER = 65532
ISSUER = "kubernetes.default.svc.cluster.local"
NODES = ["redis-0.redis.redis.svc", "redis-1.redis.redis.svc", "redis-2.redis.redis.svc"]
HOSTS = {ISSUER: "127.0.0.2", "redis.redis.svc": "127.0.0.10"} | {name: f"127.0.0.{11 + at}" for at, name in enumerate(NODES)}
STARTED: list[subprocess.Popen] = []


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def until(what: str, fact, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > end:
            sys.exit(f"FAIL  {what}: not within {seconds} s")
        time.sleep(0.1)


# ---- certificates and tokens

def authority(into: pathlib.Path) -> None:
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "300", "-subj", "/CN=trial", "-keyout",
        str(into / "ca.key"), "-out", str(into / "ca.crt"))


def certificate(into: pathlib.Path, name: str, hosts: list[str]) -> None:
    names = ",".join(f"{'IP' if host[0].isdigit() else 'DNS'}:{host}" for host in hosts)
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", str(into / f"{name}.key"), "-out",
        str(into / f"{name}.csr"))
    (into / f"{name}.ext").write_text(f"subjectAltName={names}\n")
    run("openssl", "x509", "-req", "-days", "300", "-in", str(into / f"{name}.csr"), "-CA", str(into / "ca.crt"), "-CAkey",
        str(into / "ca.key"), "-CAcreateserial", "-extfile", str(into / f"{name}.ext"), "-out", str(into / f"{name}.crt"))


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def service_account_token(key: pathlib.Path, audience: str, subject: str) -> str:
    now = int(time.time())
    claims = {"iss": f"https://{ISSUER}", "aud": [audience], "sub": subject, "iat": now, "nbf": now, "exp": now + 3600}
    signed = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "cluster"}, claims))
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", str(key)], input=signed.encode(), capture_output=True,
                               check=True).stdout
    return f"{signed}.{base64url(signature)}"


def serve_keys(folder: pathlib.Path, own_token: str) -> None:
    """What an API server shows to a service account: its discovery document and its keys."""
    modulus = run("openssl", "rsa", "-in", str(folder / "issuer.key"), "-noout", "-modulus").strip().split("=")[1]
    key = {"kty": "RSA", "kid": "cluster", "use": "sig", "alg": "RS256", "e": "AQAB", "n": base64url(bytes.fromhex(modulus))}
    documents = {
        "/.well-known/openid-configuration": {"issuer": f"https://{ISSUER}", "jwks_uri": f"https://{ISSUER}/openid/v1/jwks"},
        "/openid/v1/jwks": {"keys": [key]},
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") == f"Bearer {own_token}"
            document = documents.get(self.path) if allowed else None
            body = json.dumps(document or {}).encode()
            self.send_response(200 if document else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((HOSTS[ISSUER], 443), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "api.crt", folder / "api.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


# ---- Redis

def start_redis(folder: pathlib.Path, host: str, password: str, cluster: bool) -> None:
    address = HOSTS[host]
    data = folder / f"redis-{address}"
    data.mkdir()
    template = pathlib.Path("deploy/compose/redis.acl").read_text().splitlines()
    acl = next(line for line in template if line.startswith("user tokenward "))
    acl = acl.replace("@PASSWORD_SHA256@", hashlib.sha256(password.encode()).hexdigest())
    if cluster:
        acl += " +cluster|info +cluster|slots +asking"
    (data / "acl").write_text(f"user default on >{password} ~* &* +@all\n{acl}\n")
    lines = [f"bind {address}", "port 0", "tls-port 6379", f"tls-cert-file {folder}/redis.crt", f"tls-key-file {folder}/redis.key",
             f"tls-ca-cert-file {folder}/ca.crt", "tls-auth-clients no", f"dir {data}", f"aclfile {data}/acl", "appendonly yes",
             "maxmemory 64mb", "maxmemory-policy noeviction", 'save ""', "tls-replication yes", f"masterauth {password}"]
    if cluster:
        lines += ["cluster-enabled yes", "tls-cluster yes", f"cluster-announce-hostname {host}",
                  "cluster-preferred-endpoint-type hostname", "cluster-node-timeout 2000"]
    (data / "redis.conf").write_text("\n".join(lines) + "\n")
    STARTED.append(subprocess.Popen(["redis-server", str(data / "redis.conf")], stdout=subprocess.DEVNULL))
    until(f"Redis at {address}", lambda: ask_redis(folder, host, password, "ping", check=False) == "PONG")


def ask_redis(folder: pathlib.Path, host: str, password: str, *command: str, check: bool = True) -> str:
    done = subprocess.run(["redis-cli", "-e", "--tls", "--cacert", str(folder / "ca.crt"), "-h", HOSTS[host], *command],
                          capture_output=True, text=True, check=False, env=os.environ | {"REDISCLI_AUTH": password})
    if check and done.returncode != 0:
        sys.exit(f"redis-cli {command}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def start_cluster(folder: pathlib.Path, password: str) -> None:
    """One primary with every slot, and two replicas of it."""
    for host in NODES:
        start_redis(folder, host, password, cluster=True)
    primary, *replicas = NODES
    ask_redis(folder, primary, password, "cluster", "addslotsrange", "0", "16383")
    name = ask_redis(folder, primary, password, "cluster", "myid")
    for host in replicas:
        ask_redis(folder, host, password, "cluster", "meet", HOSTS[primary], "6379")
        until("the nodes meet", lambda host=host: name in ask_redis(folder, host, password, "cluster", "nodes"))
        until("a replica", lambda host=host: ask_redis(folder, host, password, "cluster", "replicate", name, check=False) == "OK")
    until("the cluster is up", lambda: all(
        "cluster_state:ok" in ask_redis(folder, host, password, "cluster", "info") for host in NODES))
    until("replicas", lambda: ask_redis(folder, primary, password, "info", "replication").count("state=online") == 2)


# ---- the pod

def as_the_kubelet_does(path: pathlib.Path, files: dict[str, bytes]) -> None:
    """A volume of a Secret with defaultMode 0400 in a pod with fsGroup: the group may read, links lead to the files."""
    run("mount", "-t", "tmpfs", "tmpfs", str(path))
    version = path / "..2026_11_30_08_00_00.1"
    version.mkdir()
    for name, content in files.items():
        (version / name).write_bytes(content)
        os.chown(version / name, 0, USER)
        (version / name).chmod(0o440)
        (path / name).symlink_to(f"..data/{name}")
    (path / "..data").symlink_to(version.name)
    for folder, mode in ((version, 0o2755), (path, 0o3777)):
        os.chown(folder, 0, USER)
        folder.chmod(mode)
    run("mount", "-o", "remount,ro", str(path))


def root_file_system(root: pathlib.Path, work: pathlib.Path, binary: pathlib.Path) -> None:
    """A tree with the program and what a dynamic one needs; the image's own is tried by image-smoke.sh."""
    for name in ("usr", "etc/ssl", "etc/tokenward", "run", "var/lib/tokenward", "dev", "tmp", "proc"):
        (root / name).mkdir(parents=True)
    for name in ("lib", "lib64", "bin"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "var/run").symlink_to("../run")
    (root / "tokenward").touch()
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{at} {name}\n" for name, at in HOSTS.items()))
    (root / "etc/nsswitch.conf").write_text("hosts: files\n")
    (root / "etc/passwd").write_text(f"root:x:0:0::/:/none\ntokenward:x:{USER}:{USER}::/:/none\n")
    (root / "etc/group").write_text(f"root:x:0:\ntokenward:x:{USER}:\n")
    run("mount", "--bind", str(root), str(root))
    run("mount", "--bind", "/usr", str(root / "usr"))
    run("mount", "--bind", "/etc/ssl", str(root / "etc/ssl"))
    run("mount", "--bind", str(binary), str(root / "tokenward"))
    run("mount", "-t", "proc", "proc", str(root / "proc"))
    # The claim, as fsGroup makes it.
    claim = root / "var/lib/tokenward"
    run("mount", "-t", "tmpfs", "tmpfs", str(claim))
    os.chown(claim, 0, USER)
    claim.chmod(0o2775)


def make_pod(root: pathlib.Path, work: pathlib.Path, binary: pathlib.Path, mounts: dict[str, str],
             volumes: dict[str, dict[str, bytes]]) -> list[str]:
    """The pod's file system; returns the command that runs its program there."""
    root_file_system(root, work, binary)
    places = {name: root / path.removeprefix("/").replace("var/run/", "run/", 1) for name, path in mounts.items()}
    for path in places.values():
        path.mkdir(parents=True, exist_ok=True)
    run("mount", "-o", "remount,bind,ro", str(root))
    for name, path in places.items():
        if name in volumes:
            as_the_kubelet_does(path, volumes[name])
    return ["chroot", f"--userspec={USER}:{USER}", f"--groups={USER}", str(root), "/tokenward"]


def fetch(url: str, token: str = "", context: ssl.SSLContext | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        return 0, str(error)


def main() -> None:
    overlay, unpacked, binary = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]).resolve()
    run("ip", "link", "set", "lo", "up")
    work = pathlib.Path(tempfile.mkdtemp(prefix="kubernetes-trial-", dir=unpacked))
    for folder in (unpacked.parent.parent, unpacked.parent, unpacked, work):
        folder.chmod(0o755)
    authority(work)
    certificate(work, "tokenward", ["tokenward.tokenward.svc"])
    certificate(work, "api", [ISSUER])
    certificate(work, "redis", [*HOSTS, *HOSTS.values()])
    run("openssl", "genrsa", "-out", str(work / "issuer.key"), "2048")
    own_token = service_account_token(work / "issuer.key", f"https://{ISSUER}", "system:serviceaccount:tokenward:tokenward")
    serve_keys(work, own_token)
    password = os.urandom(16).hex()
    if overlay == "redis":
        start_redis(work, "redis.redis.svc", password, cluster=False)
    elif overlay == "redis-cluster":
        start_cluster(work, password)

    # The secrets as docs/kubernetes.md has them made.
    (work / "keyring").mkdir(mode=0o700)
    (work / "setup.toml").write_text(f'[sealing]\nkeyring = "{work}/keyring"\n')
    run(str(binary), "--config", str(work / "setup.toml"), "keyring", "add")
    volumes = {
        "config": {"tokenward.toml": (unpacked / "tokenward.toml").read_bytes()},
        "keyring": {file.name: file.read_bytes() for file in (work / "keyring").iterdir() if file.suffix == ".key"},
        "credentials": {"first": b"trial-secret"},
        "tls": {"tls.crt": (work / "tokenward.crt").read_bytes(), "tls.key": (work / "tokenward.key").read_bytes()},
        "cluster": {"token": own_token.encode(), "ca.crt": (work / "ca.crt").read_bytes()},
        "redis": {"password": password.encode(), "ca.crt": (work / "ca.crt").read_bytes()},
    }
    mounts = dict(line.split() for line in (unpacked / "mounts").read_text().splitlines())
    pod = make_pod(work / "root", work, binary, mounts, volumes)

    variables = dict(line.split("=", 1) for line in (unpacked / "environment").read_text().splitlines())
    environment = variables | {"TOKENWARD_CONFIG": "/etc/tokenward/tokenward.toml", "PATH": "/usr/sbin:/usr/bin"}
    checked = subprocess.run([*pod, "check"], env=environment, capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        sys.exit(f"FAIL  {overlay}: tokenward check\n{checked.stdout}{checked.stderr}")
    if "warning:" in checked.stdout + checked.stderr:
        sys.exit(f"FAIL  {overlay}: tokenward check warns\n{checked.stdout}{checked.stderr}")
    print(f"ok    {overlay}: tokenward check")

    log = open(work / "log", "w")
    daemon = subprocess.Popen([*pod, "serve"], env=environment, stdout=log, stderr=subprocess.STDOUT)
    STARTED.append(daemon)
    try:
        until("/readyz", lambda: daemon.poll() is not None or fetch("http://127.0.0.1:9464/readyz")[0] == 200)
        if daemon.poll() is not None:
            sys.exit(f"FAIL  {overlay}: it ended with {daemon.returncode}")
        assert fetch("http://127.0.0.1:9464/livez")[0] == 200
        # A caller by its service account's token, over TLS; a token for somebody else is refused.
        context = ssl.create_default_context(cafile=str(work / "ca.crt"))
        resolve = socket.getaddrinfo
        socket.getaddrinfo = lambda host, *rest, **more: resolve(
            "127.0.0.1" if host == "tokenward.tokenward.svc" else host, *rest, **more)
        url = "https://tokenward.tokenward.svc:7443/v1/apps/outlook/connections/team-a%2Fuser-1/token"
        known = service_account_token(work / "issuer.key", "tokenward", "system:serviceaccount:mail:sync")
        other = service_account_token(work / "issuer.key", f"https://{ISSUER}", "system:serviceaccount:mail:sync")
        status, body = fetch(url, known, context)
        assert (status, json.loads(body)["code"]) == (404, "connection_not_found"), (status, body)
        status, body = fetch(url, other, context)
        assert (status, json.loads(body)["code"]) == (401, "caller_unauthenticated"), (status, body)
        shown = run(*pod, "status", env=environment)
        assert "outlook" in shown, shown
        daemon.terminate()
        assert daemon.wait(45) == 0, daemon.returncode
    except BaseException:
        print((work / "log").read_text()[-4000:], file=sys.stderr)
        raise
    print(f"ok    {overlay}: started, ready, a pod's token is known, stopped in order")
    if overlay == "redis":
        pods = [pod, make_pod(work / "root-1", work, binary, mounts, volumes)]
        rollout([Replica(f"127.0.0.{50 + at}", one, environment, work) for at, one in enumerate(pods)], known, context,
                json.loads((unpacked / "ending").read_text()))


# ---- a rollout

class Replica:
    """A pod of the set, at an address of its own."""

    def __init__(self, address: str, pod: list[str], environment: dict[str, str], work: pathlib.Path) -> None:
        self.address, self.pod, self.log = address, pod, work / f"log-{address}"
        listeners = {"PUBLIC": 8080, "LOCAL__0": 7443, "OPS": 9464}
        self.environment = environment | {f"TOKENWARD__LISTEN__{name}__ADDRESS": f"{address}:{port}" for name, port in listeners.items()}
        self.daemon: subprocess.Popen | None = None

    def start(self) -> None:
        self.daemon = subprocess.Popen([*self.pod, "serve"], env=self.environment, stdout=open(self.log, "a"), stderr=subprocess.STDOUT)
        STARTED.append(self.daemon)
        until(f"{self.address} is ready", self.is_ready)

    def is_ready(self) -> bool:
        return fetch(f"http://{self.address}:9464/readyz")[0] == 200


class Balancer:
    """What a Service is to its callers: each new connection goes to one of the endpoints, and stays there."""

    def __init__(self) -> None:
        self.endpoints: list[str] = []
        self.turn = itertools.count()
        self.listener = socket.create_server(("127.0.0.40", 7443), backlog=256)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            endpoints = self.endpoints
            threading.Thread(target=self.carry, args=(client, endpoints[next(self.turn) % len(endpoints)]), daemon=True).start()

    @staticmethod
    def carry(client: socket.socket, endpoint: str) -> None:
        with client, socket.create_connection((endpoint, 7443)) as server:
            other = {client: server, server: client}
            while other:
                for one in select.select(list(other), [], [])[0]:
                    try:
                        data = one.recv(65536)
                        other[one].sendall(data) if data else other[one].shutdown(socket.SHUT_WR)
                    except OSError:
                        return
                    if not data:
                        other.pop(one)


class Client(threading.Thread):
    """Asks again and again: over one connection as long as that is kept, or over a new one each time."""

    def __init__(self, token: str, context: ssl.SSLContext, keeps: bool) -> None:
        super().__init__(daemon=True)
        self.token, self.context, self.keeps = token, context, keeps
        self.ends, self.answers, self.failures = False, 0, []

    def run(self) -> None:
        connection = None
        while not self.ends:
            try:
                if connection is None:
                    connection = http.client.HTTPSConnection("tokenward.tokenward.svc", 7443, timeout=20, context=self.context)
                    connection._create_connection = lambda _, *rest: socket.create_connection(("127.0.0.40", 7443), *rest)
                headers = {"Authorization": f"Bearer {self.token}"} | ({} if self.keeps else {"Connection": "close"})
                connection.request("GET", "/v1/apps/outlook/connections/team-a%2Fuser-1/token", headers=headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 404:
                    self.failures.append(f"status {answer.status}")
                self.answers += 1
                if answer.will_close:
                    connection = None
            except OSError as error:
                self.failures.append(repr(error))
                connection = None
            except http.client.HTTPException as error:
                self.failures.append(repr(error))
                connection = None
            time.sleep(0.02)


def rollout(replicas: list[Replica], token: str, context: ssl.SSLContext, ending: dict[str, int]) -> None:
    """Ends and starts one replica after the other, as the controller of a StatefulSet does."""
    for replica in replicas:
        replica.start()
    balancer = Balancer()
    balancer.endpoints = [replica.address for replica in replicas]
    clients = [Client(token, context, keeps) for keeps in (True, True, False)]
    for client in clients:
        client.start()
    until("requests are answered", lambda: all(client.answers > 20 for client in clients))
    for replica in replicas:
        before = [client.answers for client in clients]
        # The endpoint goes from the balancer while preStop still waits, here halfway.
        began = time.monotonic()
        time.sleep(ending["preStop"] / 2)
        balancer.endpoints = [one.address for one in replicas if one is not replica]
        time.sleep(ending["preStop"] / 2)
        replica.daemon.terminate()
        assert replica.daemon.wait(ending["grace"]) == 0, replica.daemon.returncode
        ended = time.monotonic() - began
        assert ended < ending["grace"], f"it took {ended:.0f} s of {ending['grace']}"
        replica.start()
        balancer.endpoints = [one.address for one in replicas]
        until("requests go on", lambda before=before: all(
            client.answers > least + 20 for client, least in zip(clients, before, strict=True)))
    for client in clients:
        client.ends = True
        client.join(30)
    failures = [failure for client in clients for failure in client.failures]
    if failures:
        sys.exit(f"FAIL  rollout: {len(failures)} requests failed: {failures[:5]}\n{replicas[0].log.read_text()[-2000:]}")
    print(f"ok    rollout: both replicas replaced, {sum(client.answers for client in clients)} requests, none failed")
    for replica in replicas:
        replica.daemon.terminate()
        assert replica.daemon.wait(45) == 0, replica.daemon.returncode


if __name__ == "__main__":
    try:
        main()
    finally:
        for one in STARTED:
            one.kill()
