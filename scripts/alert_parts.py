"""The parts of the world of alerts_trial.py: certificates, an issuer of callers' JWTs, a replica, and those who ask it."""

import http.client
import http.server
import pathlib
import subprocess
import threading
import time
import typing
import urllib.error
import urllib.parse
import urllib.request

if typing.TYPE_CHECKING:
    from alert_world import World

REQUESTS_A_SECOND = 40
RECEIVER_PORT = 8600
ISSUER_PORTS = {"cluster": 8500, "second-cluster": 8501}


def run(*command: object, **options) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def until(what: str, fact, seconds: float = 120):
    end = time.monotonic() + seconds
    while True:
        try:
            if found := fact():
                return found
        except (urllib.error.URLError, http.client.HTTPException, OSError, RuntimeError, ValueError, KeyError, IndexError):
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


def write(path: pathlib.Path, content: str | bytes) -> None:
    """Replaces a file in one step, as an operator's tools do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.chmod(0o600)
    partial.rename(path)


# ---- certificates

class Authority:
    """A certificate authority by openssl. A certificate is issued anew for the same key, so that no pair is half replaced."""

    CONFIG = ("[ca]\ndefault_ca = own\n[own]\ndatabase = {0}/index.txt\ncrlnumber = {0}/number\ndefault_md = sha256\n"
              "certificate = {0}/ca.crt\nprivate_key = {0}/ca.key\n")

    def __init__(self, folder: pathlib.Path, name: str, days: int = 400):
        self.folder, self.name = folder, name
        folder.mkdir(parents=True)
        (folder / "index.txt").touch()
        (folder / "number").write_text("01\n")
        (folder / "openssl.cnf").write_text(self.CONFIG.format(folder))
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / "ca.key")
        self.renew(days)

    def renew(self, days: int) -> bytes:
        run("openssl", "req", "-x509", "-new", "-key", self.folder / "ca.key", "-days", days, "-subj", f"/CN={self.name}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", self.folder / "ca.crt")
        return (self.folder / "ca.crt").read_bytes()

    def issue(self, name: str, days: int, names: str = "IP:127.0.0.1,DNS:localhost") -> bytes:
        key, asked, extra, out = (self.folder / f"{name}.{kind}" for kind in ("key", "csr", "ext", "crt"))
        if not key.exists():
            run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        extra.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        run("openssl", "req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", asked)
        run("openssl", "x509", "-req", "-in", asked, "-CA", self.folder / "ca.crt", "-CAkey", self.folder / "ca.key",
            "-CAcreateserial", "-days", days, "-extfile", extra, "-out", out)
        return out.read_bytes()

    def revocations(self, hours: int) -> bytes:
        out = self.folder / "ca.crl"
        run("openssl", "ca", "-config", self.folder / "openssl.cnf", "-gencrl", "-crlhours", hours, "-out", out)
        return out.read_bytes()


# ---- an issuer of callers' JWTs

class Issuer:
    """Serves a key document while it is up."""

    def __init__(self, name: str, keys: bytes):
        self.port, self.keys, self.server = ISSUER_PORTS[name], keys, None

    def start(self) -> None:
        keys = self.keys

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(keys)))
                self.end_headers()
                self.wfile.write(keys)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


# ---- a receiver of events

class Receiver:
    """Takes every event while it is up."""

    def __init__(self):
        self.server = None

    def start(self) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", RECEIVER_PORT), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


# ---- the replicas

class Replica:
    def __init__(self, world: "World", number: int):
        self.world, self.name, self.process = world, "ab"[number], None
        self.public, self.local, self.tls, self.ops = (port + number for port in (8080, 7070, 7443, 9464))
        self.folder = world.folder / self.name
        self.audit = self.folder / "audit"
        self.audit.mkdir(parents=True)
        # A disk of its own, which can be filled.
        run("mount", "-t", "tmpfs", "-o", "mode=700,size=64m", "tmpfs", self.audit)

    @property
    def config(self) -> pathlib.Path:
        return self.folder / "tokenward.toml"

    def command(self, *words: str) -> str:
        return run(self.world.binaries / "tokenward", *words, "--config", self.config)

    def start(self) -> None:
        log = open(self.world.logs / f"replica-{self.name}.log", "ab")
        self.process = subprocess.Popen([self.world.binaries / "tokenward", "serve", "--config", self.config],
                                        stdout=log, stderr=log, start_new_session=True)
        self.until_ready()

    def until_ready(self) -> None:
        url = f"http://127.0.0.1:{self.ops}/readyz"
        until(f"replica {self.name} is ready", lambda: urllib.request.urlopen(url, timeout=5).status == 200)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


# ---- the callers

class Load:
    """Asks both replicas for tokens, at a bounded rate: of every connection in turn, and of the archive's one time in a hundred."""

    WORKERS = 12

    def __init__(self, world: "World"):
        self.world, self.archive_every, self.number, self.answers = world, 100, 0, {}
        self.next_at, self.lock, self.stopped = time.monotonic(), threading.Lock(), False

    def start(self) -> None:
        for _ in range(self.WORKERS):
            threading.Thread(target=self.work, daemon=True).start()

    def turn(self) -> int:
        with self.lock:
            number, self.number = self.number, self.number + 1
            now = time.monotonic()
            # What could not be asked in time is not made up for.
            self.next_at = max(self.next_at + 1 / REQUESTS_A_SECOND, now - 0.2)
            wait = self.next_at - now
        time.sleep(max(wait, 0))
        return number

    def work(self) -> None:
        connections: dict[str, http.client.HTTPConnection] = {}
        names = self.world.names
        while not self.stopped:
            number = self.turn()
            replica = self.world.replicas[(number + number // len(names)) % 2]
            app, name = ("archive", "all") if number % self.archive_every == 0 else ("outlook", names[number % len(names)])
            try:
                http_ = connections.get(replica.name)
                if http_ is None:
                    http_ = connections[replica.name] = http.client.HTTPConnection("127.0.0.1", replica.local, timeout=30)
                http_.request("GET", token_path(app, name), headers={"Authorization": f"Bearer {self.world.key}"})
                answer = http_.getresponse()
                answer.read()
                word: object = answer.status
            except (OSError, http.client.HTTPException):
                connections.pop(replica.name, None)
                word = "no answer"
                time.sleep(0.2)
            with self.lock:
                self.answers[word] = self.answers.get(word, 0) + 1


def token_path(app: str, name: str) -> str:
    return f"/v1/apps/{app}/connections/{urllib.parse.quote(name, safe='')}/token"


class Flood:
    """Requests with a key that nobody has, some three hundred a second, at one replica."""

    def __init__(self, replica: Replica):
        self.replica, self.stopped = replica, threading.Event()
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(6)]
        for thread in self.threads:
            thread.start()

    def work(self) -> None:
        while not self.stopped.is_set():
            http_ = http.client.HTTPConnection("127.0.0.1", self.replica.local, timeout=30)
            try:
                while not self.stopped.wait(1 / 50):
                    http_.request("GET", token_path("outlook", "nobody"), headers={"Authorization": "Bearer nobodys-key"})
                    http_.getresponse().read()
            except (OSError, http.client.HTTPException):
                pass
            http_.close()

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)
