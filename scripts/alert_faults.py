"""Every alert of deploy/prometheus/tokenward.rules.yml with the fault that makes it fire and the repair that clears it.

`ROWS` is the table, in the order in which alerts_trial.py tries it; check_alerts.py fails if an alert has no row or a row no alert.
A row is a generator of three parts with a `yield` between them: the fault, the repair, and what is tidied up afterwards.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

# The families of alerts that tell of an end, with the days that are left while each must fire.
DAYS_LEFT = (("30d", 20), ("14d", 10), ("7d", 3), ("1d", 1))
FAR = 400
MAIN = ""


@dataclasses.dataclass(frozen=True)
class Row:
    alert: str
    fault: str
    repair: str
    act: Callable[..., Iterator[None]]
    # Alerts that the same fault may raise too, each with its reason in `why`.
    beside: frozenset[str] = frozenset()
    why: str = ""
    # Rows of one lane come one after the other, and each lane beside the others.
    lane: str = MAIN
    # It comes before the other lanes begin.
    is_first: bool = False
    # It comes after these lanes.
    after: tuple[str, ...] = ()
    # No other lane breaks or repairs anything meanwhile.
    takes_store: bool = False
    # Seconds that it may take to clear, if that is longer than usual.
    clears_within: float = 300


ROWS: list[Row] = []


def row(alert: str, fault: str, repair: str, beside: tuple[str, ...] = (), **more):
    def add(act: Callable[..., Iterator[None]]) -> Callable[..., Iterator[None]]:
        ROWS.append(Row(alert, fault, repair, act, frozenset(beside), **more))
        return act

    return add


# ---- instances, and their configuration

@row("TokenwardDown", "`kill -9` of one of two replicas", "it is started again", is_first=True)
def down(world) -> Iterator[None]:
    world.replicas[1].kill()
    yield
    world.replicas[1].start()
    yield


@row("TokenwardAbsent", "no replica runs, and service discovery has none", "both are started, and found again", is_first=True)
def absent(world) -> Iterator[None]:
    world.discover([])
    world.until_unknown()
    for replica in world.replicas:
        replica.stop()
    yield
    for replica in world.replicas:
        replica.start()
    world.discover(world.replicas)
    yield


@row("TokenwardConfigReloadFailed", "the file has a key that does not exist", "the line is taken out", is_first=True)
def reload_failed(world) -> Iterator[None]:
    world.configure(extra='[limits]\nsweep_rat = 50\n')
    yield
    world.configure(extra="")
    yield


# ---- what takes long, and goes on beside the rest

@row("TokenwardIssuerKeysStale", "an issuer of callers' JWTs is down, whose keys were fetched before", "it is up again", lane="issuer")
def issuer_stale(world) -> Iterator[None]:
    world.issuer["cluster"].stop()
    yield
    world.issuer["cluster"].start()
    yield


@row("TokenwardRewrapUnfinished", "a new sealing key is promoted at one replica and forgotten at the other",
     "it is promoted there too, and what sessions left is gone", lane="sealing keys")
def rewrap_unfinished(world) -> Iterator[None]:
    a, b = world.replicas
    world.promote(a, world.add_sealing_key())
    yield
    # The one that the row of TokenwardSealingKeyOld promoted at the other replica meanwhile.
    world.promote(a, world.primary(b))
    world.hasten_sessions()
    yield


@row("TokenwardTokenErrorsSlow", "the authority fails for one connection, for which one request in a hundred asks",
     "the authority answers again", lane="errors")
def errors_slow(world) -> Iterator[None]:
    world.break_authority({"status": {"status": 503}}, client="archive-client")
    yield
    world.mend_authority()
    yield


@row("TokenwardWebhookBehind", "a webhook's receiver is down, and a user signs in again", "it is up again", lane="webhook",
     clears_within=700)
def webhook_behind(world) -> Iterator[None]:
    world.receiver.stop()
    world.connect("outlook", "told", "told@spare.example")
    yield
    # (The next try is five minutes away at most.)
    world.receiver.start()
    yield


# ---- credentials

def credential_expires(days: float) -> Callable[..., Iterator[None]]:
    def act(world) -> Iterator[None]:
        last = world.credential
        world.configure(credentials=[(last, days)])
        yield
        world.credential = world.new_secret()
        world.configure(credentials=[(last, days), (world.credential, FAR)])
        yield
        # Retired before it is taken out, or it is a fallback for a while, and counts.
        world.until_proven(world.credential)
        world.retire(last)
        world.configure(credentials=[(world.credential, FAR)])
        world.delete_secret(last)

    return act


for name, days in DAYS_LEFT:
    left = "12 hours" if days == 1 else f"{days} days"
    row(f"TokenwardCredentialExpires{name}", f"an app's only secret has {left} left",
        "a second one that lasts is put beside it")(credential_expires(0.5 if days == 1 else days))


@row("TokenwardCredentialExpiryUnknown", "`expires` of a secret is left out", "it is said")
def expiry_unknown(world) -> Iterator[None]:
    world.configure(credentials=[(world.credential, None)])
    yield
    world.configure(credentials=[(world.credential, FAR)])
    yield


# ---- certificates, keys of callers

def listener_expires(days: int) -> Callable[..., Iterator[None]]:
    def act(world) -> Iterator[None]:
        world.listener_certificate(days)
        yield
        world.listener_certificate(FAR)
        yield

    return act


def store_certificate_expires(days: int) -> Callable[..., Iterator[None]]:
    def act(world) -> Iterator[None]:
        world.store_certificate(days)
        yield
        world.store_certificate(FAR)
        yield

    return act


def caller_key_expires(hours: int) -> Callable[..., Iterator[None]]:
    def act(world) -> Iterator[None]:
        world.add_key(hours)
        yield
        world.add_key(365 * 24)
        yield

    return act


for name, days in DAYS_LEFT:
    row(f"TokenwardListenerCertificateExpires{name}", f"the certificate of a listener has {days} days left".replace("1 days", "1 day"),
        "one that lasts is put in its place")(listener_expires(days))


@row("TokenwardClientCaExpires", "an authority in `client_ca` has 20 days left", "its next certificate is put in its place")
def client_ca(world) -> Iterator[None]:
    world.client_authorities(20)
    yield
    world.client_authorities(FAR)
    yield


@row("TokenwardClientCrlExpires", "the list in `client_crl` is good for three hours", "the next list is put in its place")
def client_crl(world) -> Iterator[None]:
    world.revocations(3)
    yield
    world.revocations(720)
    yield


for name, days in DAYS_LEFT:
    row(f"TokenwardStoreCertificateExpires{name}",
        f"the client certificate for Redis has {days} days left".replace("1 days", "1 day"),
        "one that lasts is put in its place", lane="store certificate")(store_certificate_expires(days))


@row("TokenwardStoreLoginRefused", "the file with Redis' password has another one", "it has the right one again")
def login_refused(world) -> Iterator[None]:
    file = world.shared / "store/password"
    before = file.read_text()
    world.write(file, "not-the-password")
    yield
    world.write(file, before)
    yield


for name, days in DAYS_LEFT:
    left = "12 hours" if days == 1 else f"{days} days"
    row(f"TokenwardCallerKeyExpires{name}", f"a caller's only API key has {left} left",
        "a new key is made, and the old one retired", lane="caller keys")(caller_key_expires(12 if days == 1 else days * 24))


@row("TokenwardIssuerKeysMissing", "the configuration names an issuer that is down", "it is started")
def issuer_missing(world) -> Iterator[None]:
    world.configure(issuers=["cluster", "second-cluster"])
    yield
    world.issuer["second-cluster"].start()
    yield
    world.configure(issuers=["cluster"])
    world.issuer["second-cluster"].stop()


# ---- the audit, strangers, records, the store's setup

@row("TokenwardAuditSinkFailing", "the disk of one replica's audit file is full", "there is room again")
def audit_full(world) -> Iterator[None]:
    filler = world.replicas[0].audit / "filler"
    fill(filler)
    yield
    filler.unlink()
    yield


def fill(file: pathlib.Path) -> None:
    """Writes until nothing more fits on that disk."""
    with open(file, "wb", buffering=0) as out:
        try:
            while out.write(b"\0" * 65_536) > 0:
                pass
        except OSError:
            pass
        try:
            while out.write(b"\0") > 0:
                pass
        except OSError:
            pass


@row("TokenwardStrangersFlood", "some three hundred requests a second with a key that nobody has", "they end")
def strangers(world) -> Iterator[None]:
    flood = world.flood(world.replicas[0])
    yield
    flood.stop()
    yield


@row("TokenwardSpansDropped", "`[traces]` names an address where no collector listens", "it names none")
def spans_dropped(world) -> Iterator[None]:
    world.configure(extra='[traces]\nendpoint = "http://127.0.0.1:4318"\nsample_ratio = 1\n')
    yield
    world.configure(extra="")
    yield


@row("TokenwardStoreAtRisk", "`CONFIG SET maxmemory-policy allkeys-lru` at Redis", "it is `noeviction` again")
def at_risk(world) -> Iterator[None]:
    world.redis("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    yield
    world.redis("CONFIG", "SET", "maxmemory-policy", "noeviction")
    yield


@row("TokenwardRecordDamaged", "bytes of a stored connection are overwritten, and its caller asks", "the record is put back")
def damaged(world) -> Iterator[None]:
    world.damage("spare")
    yield
    world.undo_damage("spare")
    yield


# ---- users

@row("TokenwardConnectionsBlocked", "administrators disable 15 accounts", "the accounts are enabled again")
def blocked(world) -> Iterator[None]:
    names = world.names[5:20]
    for name in names:
        world.emulator("POST", f"users/{world.user(name)}/revoke", {"kind": "disabled"})
    for name in names:
        world.report_refused(name)
    yield
    for name in names:
        world.emulator("POST", f"users/{world.user(name)}/restore", {})
        world.replicas[0].command("connections", "refresh", "outlook", name)
    yield


@row("TokenwardReauthorizationGrowing", "the grants of 15 users are revoked", "they sign in again")
def reauthorization(world) -> Iterator[None]:
    names = world.names[20:35]
    for name in names:
        world.emulator("POST", f"users/{world.user(name)}/revoke", {"kind": "grant_revoked"})
    for name in names:
        world.report_refused(name)
    yield
    for name in names:
        world.connect("outlook", name, world.user(name))
    yield


@row("TokenwardTenantBlocked", "Conditional Access of one tenant blocks its users", "it does not any more",
     beside=("TokenwardConnectionsBlocked",), why="its connections are blocked, and are many")
def tenant_blocked(world) -> Iterator[None]:
    tenant = world.names[40].split("/")[0]
    names = [name for name in world.names if name.startswith(f"{tenant}/")]
    for name in names:
        world.emulator("POST", f"users/{world.user(name)}/revoke", {"kind": "conditional_access"})
    for name in names:
        world.report_refused(name)
    yield
    for name in names:
        world.emulator("POST", f"users/{world.user(name)}/restore", {})
    world.replicas[0].command("connections", "refresh", "outlook", names[0])
    yield


@row("TokenwardSignInsAhead", "one tenant ends the grants of three users by their age, and fifteen users sign in there anew",
     "the fifteen are deleted")
def sign_ins_ahead(world) -> Iterator[None]:
    # So long ago is compared with; and the age of these grants is for how long the new ones are foreseen.
    world.until_known("app:tokenward_forecast_sign_ins:sum", hours_ago=6)
    tenant = world.names[60].split("/")[0]
    names = [name for name in world.names if name.startswith(f"{tenant}/")]
    for name in names[:3]:
        world.emulator("POST", f"users/{world.user(name)}/revoke", {"kind": "sign_in_frequency"})
    for name in names[:3]:
        world.report_refused(name)
    for name in names[:3]:
        world.connect("outlook", name, world.user(name))
    anew = [f"{tenant}/anew{number}" for number in range(15)]
    for name in anew:
        world.connect("outlook", name, world.user(names[0]))
    yield
    for name in anew:
        world.replicas[0].command("connections", "delete", "outlook", name, "--yes")
    yield


# ---- the authority

@row("TokenwardAuthorityErrors", "the authority answers every request for a token with 503", "it answers again",
     beside=("TokenwardRefreshFailures",), after=("errors",), why="with such short times both fire within a second or two")
def authority_errors(world) -> Iterator[None]:
    world.break_authority({"status": {"status": 503}}, client="outlook-client")
    yield
    world.mend_authority()
    yield


@row("TokenwardRefreshFailures", "the authority throttles (429) every request for a token, for longer", "it no longer does",
     beside=("TokenwardAuthorityErrors",), why="it is the same failure, seen sooner")
def refresh_failures(world) -> Iterator[None]:
    world.break_authority({"status": {"status": 429}}, client="outlook-client")
    yield
    world.mend_authority()
    yield


@row("TokenwardTokenLatency", "the authority takes two and a half seconds for each answer", "it is quick again")
def latency(world) -> Iterator[None]:
    world.break_authority({"delay": 2500})
    yield
    world.mend_authority()
    yield


@row("TokenwardTokenErrorsFast", "the authority fails for one connection, for which one request in ten asks",
     "the authority answers again", beside=("TokenwardTokenErrorsSlow",), why="the same failures, seen over hours")
def errors_fast(world) -> Iterator[None]:
    world.load.archive_every = 10
    world.break_authority({"status": {"status": 503}}, client="archive-client")
    yield
    world.mend_authority()
    yield
    world.load.archive_every = 100


@row("TokenwardNoCredentialWorks", "an app's only secret is deleted at the authority", "a new one is made, and put into its file")
def no_credential(world) -> Iterator[None]:
    world.delete_secret(world.credential)
    yield
    world.new_secret(world.credential)
    yield


@row("TokenwardCredentialRejected", "of an app's two secrets the one in use is deleted at the authority",
     "a new one is made, and put into its file")
def credential_rejected(world) -> Iterator[None]:
    both = [world.credential, world.new_secret()]
    world.configure(credentials=[(name, FAR) for name in both])
    world.until_proven(*both)
    used = world.credential_in_use()
    world.delete_secret(used)
    yield
    world.new_secret(used)
    yield


# ---- the store

@row("TokenwardStoreErrors", "Redis is full: `maxmemory` is below what it uses, and it takes no writes",
     "it has room again",
     beside=("TokenwardStoreAtRisk", "TokenwardRefreshFailures"),
     why="Redis says that it is full, and refreshes cannot be stored there",
     after=("store certificate", "caller keys"), takes_store=True)
def store_errors(world) -> Iterator[None]:
    world.redis("CONFIG", "SET", "maxmemory", "1mb")
    yield
    world.redis("CONFIG", "SET", "maxmemory", "128mb")
    yield


@row("TokenwardNotReady", "Redis is stopped in its tracks (`SIGSTOP`)", "it goes on (`SIGCONT`)",
     beside=("TokenwardStoreErrors", "TokenwardTokenErrorsFast", "TokenwardTokenErrorsSlow"),
     why="it is what callers and operations of the store meet", takes_store=True)
def not_ready(world) -> Iterator[None]:
    world.freeze_redis()
    yield
    world.thaw_redis()
    yield


@row("TokenwardSweepStopped", "Redis is killed, for five minutes", "it is started again",
     beside=("TokenwardNotReady", "TokenwardStoreErrors", "TokenwardTokenErrorsFast", "TokenwardTokenErrorsSlow"),
     why="it is what callers and operations of the store meet", takes_store=True)
def sweep_stopped(world) -> Iterator[None]:
    world.kill_redis()
    yield
    world.start_redis()
    yield


@row("TokenwardSealingKeyOld", "the key that seals says that it was made 401 days ago", "a new one is made and promoted")
def sealing_key_old(world) -> Iterator[None]:
    world.age_primary(world.replicas[1], 401)
    yield
    world.promote(world.replicas[1], world.add_sealing_key())
    yield
