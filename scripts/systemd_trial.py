"""Tries the packaged units under a real systemd; run by check-systemd.sh.

    systemd_trial.py BINARY               starts systemd in namespaces of its own and tries the units in it
    systemd_trial.py --inside DIR BINARY  becomes that systemd
    systemd_trial.py --load PLACE...      in it: asks at each place until its input ends, and says how often
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

UNIX, TCP = "/run/tokenward/tokenward.sock", "127.0.0.1:7070"
DROP_IN = pathlib.Path("etc/systemd/system/tokenward.service.d")
SYSTEMD = "/usr/lib/systemd/systemd"
# What the clients ask: an answer means that the daemon knows who they are.
PATH = "/v1/apps/outlook/connections/nobody/token"


def until(what: str, fact, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > end:
            sys.exit(f"FAIL  {what}: not within {seconds} s")
        time.sleep(0.05)


# ---- inside

def become_systemd(work: pathlib.Path, repository: pathlib.Path) -> None:
    """A copy of this machine's root: what is written stays in `work`, and of its units only the ones of the packages are there."""
    def mount(*words: str) -> None:
        subprocess.run(["mount", *words], check=True)

    mount("-t", "tmpfs", "tmpfs", str(work))
    upper, scratch, root = work / "upper", work / "scratch", work / "root"
    for folder in (upper, scratch, root):
        folder.mkdir()
    mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={scratch}", str(root))
    (root / "mnt/repository").mkdir(parents=True)
    mount("--bind", "-o", "ro", str(repository), str(root / "mnt/repository"))
    mount("-t", "proc", "proc", str(root / "proc"))
    # What is set below /proc/sys is the whole machine's: systemd must not change it.
    mount("--bind", str(root / "proc/sys"), str(root / "proc/sys"))
    mount("-o", "remount,bind,ro", str(root / "proc/sys"))
    mount("-t", "sysfs", "-o", "ro", "sysfs", str(root / "sys"))
    mount("-t", "tmpfs", "tmpfs", str(root / "sys/fs/cgroup"))
    mount("-t", "cgroup2", "cgroup2", str(root / "sys/fs/cgroup"))
    for name, mode in (("dev", "0755"), ("run", "0755"), ("tmp", "1777")):
        mount("-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", str(root / name))
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (root / "dev" / name).touch()
        mount("--bind", f"/dev/{name}", str(root / "dev" / name))
    for name in ("pts", "shm"):
        (root / "dev" / name).mkdir()
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", str(root / "dev/pts"))
    (root / "dev/ptmx").symlink_to("pts/ptmx")
    (root / "dev/fd").symlink_to("/proc/self/fd")
    for place in ("etc/systemd/system", "etc/tokenward", "var/lib/tokenward", "var/lib/private/tokenward", "var/log/tokenward"):
        shutil.rmtree(root / place, ignore_errors=True)
    (root / "etc/machine-id").write_text("")
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "trial.target").write_text("[Unit]\nRequires=dbus.socket systemd-journald.socket\nAfter=basic.target dbus.socket\n")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.chdir(root)
    (root / "mnt/old").mkdir()
    subprocess.run(["pivot_root", ".", "mnt/old"], check=True)
    subprocess.run(["umount", "-l", "/mnt/old"], check=True)
    # In a container systemd leaves this to who made it; credentials are mounted in another namespace and come here by it.
    mount("--make-rshared", "/")
    os.execve(SYSTEMD, [SYSTEMD, "--system", "--unit=trial.target", "--show-status=0"],
              {"container": "trial", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def ask(place: str) -> int:
    """One request on a connection of its own; its status."""
    host, _, port = place.rpartition(":")
    client = socket.socket(socket.AF_INET if port.isdigit() else socket.AF_UNIX)
    with client:
        client.settimeout(60)
        client.connect((host, int(port)) if port.isdigit() else place)
        client.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := client.recv(65536):
            answer += part
    return int(answer.split()[1])


def load(places: list[str]) -> None:
    """As long as the input is open. A refused or broken connection ends it with an error."""
    os.set_blocking(0, False)
    counts: dict[str, int] = {}
    print("begun", flush=True)
    while is_open():
        for place in places:
            status = ask(place)
            counts[f"{place} {status}"] = counts.get(f"{place} {status}", 0) + 1
    print(json.dumps(counts), flush=True)


def is_open() -> bool:
    try:
        return os.read(0, 1) != b""
    except BlockingIOError:
        return True


# ---- outside

class Trial:
    def __init__(self, work: pathlib.Path, binary: pathlib.Path) -> None:
        self.work, self.binary, self.repository = work, binary, pathlib.Path.cwd()
        group = next(line.split()[1] for line in open("/proc/mounts") if line.split()[2] == "cgroup2")
        self.group = pathlib.Path(group) / f"tokenward-trial-{os.getpid()}"
        self.group.mkdir()
        self.outer = subprocess.Popen(
            ["unshare", "--mount", "--net", "--ipc", "--uts", "--cgroup", "--pid", "--fork", "--kill-child", "--propagation", "private",
             "--", sys.executable, __file__, "--inside", str(work), str(self.repository)],
            preexec_fn=lambda: (self.group / "cgroup.procs").write_text(str(os.getpid())), stdin=subprocess.DEVNULL)
        self.pid = 0
        until("systemd", self.has_started)
        self.root = pathlib.Path(f"/proc/{self.pid}/root")

    def has_started(self) -> bool:
        if self.outer.poll() is not None:
            sys.exit(f"FAIL  systemd ended with {self.outer.returncode}")
        children = pathlib.Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        if not children or os.readlink(f"/proc/{children[0]}/exe") != os.path.realpath(SYSTEMD):
            return False
        self.pid = int(children[0])
        return self.run("systemctl", "is-active", "--quiet", "trial.target", check=False).returncode == 0

    def command(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self.pid), "--mount", "--net", "--ipc", "--uts", "--pid", "--", *words]

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, cwd="/")
        if check and done.returncode != 0:
            journal = self.run("journalctl", "--no-pager", "-n", "30", check=False).stdout
            sys.exit(f"FAIL  {' '.join(words)}: {done.stdout}{done.stderr}\n{journal}")
        return done

    def systemctl(self, *words: str, check: bool = True) -> str:
        return self.run("systemctl", *words, check=check).stdout.strip()

    def shown(self, name: str, unit: str = "tokenward.service") -> str:
        return self.systemctl("show", "--value", "-p", name, unit)

    def daemon(self) -> int:
        """The daemon's id inside."""
        return int(self.shown("MainPID"))

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", "tokenward.service").stdout

    def drop_in(self, name: str, text: str | None) -> None:
        file = self.root / DROP_IN / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            file.unlink()
        else:
            file.write_text(text)
        self.systemctl("daemon-reload")

    def ask(self, place: str) -> int:
        words = self.command("python3", "-c", f"import sys; sys.path.insert(0, '/mnt/repository/scripts')\nimport systemd_trial\n"
                             f"print(systemd_trial.ask({place!r}))")
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
        if done.returncode != 0:
            sys.exit(f"FAIL  no answer at {place}: {done.stderr[-400:]}\n{self.journal()[-2000:]}")
        return int(done.stdout)

    def end(self) -> None:
        self.outer.kill()
        self.outer.wait()
        until("its processes are gone", lambda: "populated 0" in (self.group / "cgroup.events").read_text())
        for folder in sorted(self.group.rglob("*"), key=lambda path: -len(path.parts)):
            if folder.is_dir():
                folder.rmdir()
        self.group.rmdir()


def hold(fact: object, what: str) -> None:
    if not fact:
        sys.exit(f"FAIL  {what}")


def install(trial: Trial) -> None:
    program = trial.root / "opt/tokenward"
    shutil.copy(trial.binary, program)
    trial.run("sh", "-c", "cd /mnt/repository && BINARY=/opt/tokenward scripts/install.sh")
    verified = trial.run("systemd-analyze", "verify", "--man=no", "tokenward.service", "tokenward.socket", "tokenward-admin.socket")
    hold(not verified.stdout + verified.stderr, f"systemd-analyze verify: {verified.stdout}{verified.stderr}")
    for file in ("man/man1/tokenward-serve.1", "bash-completion/completions/tokenward", "zsh/vendor-completions/_tokenward",
                 "fish/vendor_completions.d/tokenward.fish"):
        place = trial.root / "usr/share" / file
        hold(place.is_file() and place.stat().st_size > 500 and place.stat().st_mode & 0o777 == 0o644, file)
    # The steps of the page, which install.sh says come next. Root is the first caller.
    page = (trial.repository / "docs/systemd.md").read_text()
    steps = re.search(r"## Install\n.*?```sh\n(.*?)```", page, re.S).group(1)
    hold("tokenward init /etc/tokenward " in steps and "chown" in steps, steps)
    trial.run("sh", "-e", "-c", steps)
    config = trial.root / "etc/tokenward/tokenward.toml"
    text = config.read_text().replace("00000000-0000-0000-0000-000000000000", "11111111-2222-3333-4444-555555555555")
    hold("11111111-2222" in text, text)
    # Here the app's secret is a credential of systemd's.
    folder = 'credentials_dir = "/etc/tokenward/credentials/outlook"'
    hold(folder in text, text)
    config.write_text(text.replace(folder, """[[apps.outlook.credentials]]
id = "2026-11"
kind = "secret"
file = "/run/credentials/tokenward.service/tokenward.client-secret\""""))
    store = trial.root / "etc/credstore"
    store.mkdir(mode=0o700, exist_ok=True)
    (store / "tokenward.client-secret").write_text("trial-secret")
    print("ok    installed, and configured by init; systemd-analyze verify says nothing")


def starts(trial: Trial) -> None:
    trial.systemctl("start", "tokenward")
    # `start` returns when the daemon has said READY=1: it listens.
    hold(trial.shown("ActiveState") == "active", "it is not active")
    hold(trial.ask(UNIX) == 404, "root, a caller by its user, is not known")
    hold(trial.ask(TCP) == 401, "nobody is known over TCP without a key")
    status = (trial.root / f"proc/{trial.daemon()}/status").read_text()
    user = trial.run("id", "-u", "tokenward").stdout.strip()
    for fact in (rf"Uid:\s+{user}\s", r"CapEff:\s+0+\n", r"CapBnd:\s+0+\n", r"NoNewPrivs:\s+1\n", r"Seccomp:\s+2\n"):
        hold(re.search(fact, status), f"the process differs from {fact}: {status}")
    secret = trial.root / f"proc/{trial.daemon()}/root/run/credentials/tokenward.service/tokenward.client-secret"
    hold(secret.read_text() == "trial-secret", "the credential")
    print("ok    start: ready by notify, own user, no capabilities, seccomp, credential loaded")


def reloads(trial: Trial) -> None:
    config = trial.root / "etc/tokenward/tokenward.toml"
    before, text = trial.daemon(), config.read_text()
    config.write_text(text + '\n[callers.second]\nauthenticate = [{ unix_user = "nobody" }]\n')
    trial.systemctl("reload", "tokenward")
    until("the caller is taken up", lambda: "second" in trial.run("tokenward", "callers", "list").stdout)
    config.write_text(text)
    trial.systemctl("reload", "tokenward")
    until("the caller is gone", lambda: "second" not in trial.run("tokenward", "callers", "list").stdout)
    hold(trial.daemon() == before, "another process")
    print("ok    reload: taken up by the same process")


def watchdog(trial: Trial) -> None:
    trial.drop_in("trial.conf", "[Service]\nWatchdogSec=3\n")
    trial.systemctl("restart", "tokenward")
    before, restarts = trial.daemon(), int(trial.shown("NRestarts"))
    time.sleep(5)
    hold(trial.daemon() == before, "it was ended although it says that it lives")
    trial.run("kill", "-STOP", str(before))
    until("a stopped daemon is ended and started again",
          lambda: trial.daemon() not in (0, before) and trial.shown("ActiveState") == "active")
    hold(int(trial.shown("NRestarts")) == restarts + 1 and "watchdog" in trial.run("journalctl", "--no-pager").stdout.lower(), "why")
    hold(trial.ask(UNIX) == 404, "it answers again")
    trial.drop_in("trial.conf", None)
    trial.systemctl("restart", "tokenward")
    print("ok    watchdog: a daemon that stands still is ended and started again")


def wrong_configuration(trial: Trial) -> None:
    config = trial.root / "etc/tokenward/tokenward.toml"
    text = config.read_text()
    config.write_text(text + "\nnonsense = 1\n")
    trial.systemctl("restart", "tokenward", check=False)
    until("it failed", lambda: trial.shown("ActiveState") == "failed")
    hold(trial.shown("ExecMainStatus") == "2", trial.shown("ExecMainStatus"))
    hold(trial.shown("NRestarts") == "0", "a wrong configuration is tried again")
    config.write_text(text)
    trial.systemctl("reset-failed", "tokenward")
    trial.systemctl("start", "tokenward")
    print("ok    a wrong configuration: exit code 2, and no other try")


def sockets(trial: Trial) -> None:
    # The steps of the page, but for its last: the first connection starts the daemon.
    page = (trial.repository / "docs/systemd.md").read_text()
    steps = re.search(r"## Sockets of systemd\n.*?```sh\n(.*?)```", page, re.S).group(1)
    steps, last = steps.rstrip().rsplit("\n", 1)
    hold(last == "systemctl start tokenward", last)
    trial.run("sh", "-e", "-c", steps)
    hold(trial.shown("ActiveState") == "inactive", "it runs already")
    places = [UNIX, TCP, "127.0.0.1:8080", "127.0.0.1:9464"]
    hold([trial.ask(place) for place in places] == [404, 401, 404, 404], "a connection starts it and is answered")
    hold(trial.shown("ActiveState") == "active", "it was not started")
    log = trial.journal()
    hold(log.count("takes over a socket of the service manager") == 5, log[-3000:])
    hold("outlook" in trial.run("tokenward", "status").stdout, "commands find it")
    hold("outlook" in trial.run("runuser", "-u", "tokenward", "--", "tokenward", "status").stdout, "as its user, too")
    mode = trial.run("stat", "-c", "%U %a", "/run/tokenward/admin.sock").stdout.strip()
    hold(mode == "tokenward 600", mode)

    client = subprocess.Popen(trial.command("python3", "/mnt/repository/scripts/systemd_trial.py", "--load", UNIX, TCP),
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    hold(client.stdout.readline() == "begun\n", "the clients do not begin")
    ids = {trial.daemon()}
    for _ in range(6):
        # (Five starts in a minute are the unit's limit.)
        trial.systemctl("reset-failed", "tokenward")
        trial.systemctl("restart", "tokenward")
        ids.add(trial.daemon())
        time.sleep(0.3)
    client.stdin.close()
    said = client.stdout.read()
    hold(client.wait() == 0, "a request failed in a restart")
    counts = json.loads(said)
    hold(set(counts) == {f"{UNIX} 404", f"{TCP} 401"} and len(ids) == 7, f"{counts}")
    # One that dies is started again, too, and meanwhile nobody is refused.
    trial.run("kill", "-KILL", str(trial.daemon()))
    hold(trial.ask(UNIX) == 404 and trial.daemon() not in ids, "after a crash")

    trial.systemctl("stop", "tokenward")
    hold(trial.run("test", "-S", UNIX, check=False).returncode == 0, "the stop removed the socket's file")
    hold(trial.ask(UNIX) == 404, "a connection starts it again")
    print(f"ok    sockets of systemd: six restarts and {sum(counts.values())} requests, none failed; a crash; a start by a connection")


def main() -> None:
    binary = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="systemd-trial-") as work:
        trial = Trial(pathlib.Path(work), binary)
        try:
            for step in (install, starts, reloads, watchdog, wrong_configuration, sockets):
                step(trial)
        finally:
            trial.end()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if sys.argv[1] == "--inside":
        become_systemd(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    elif sys.argv[1] == "--load":
        load(sys.argv[2:])
    else:
        main()
