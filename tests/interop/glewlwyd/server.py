"""Glewlwyd as an OpenID provider, from Debian's package: its defaults, PKCE allowed, users alice and bob.

Prints {"issuer"} when it answers and ends when standard input does; the line "revoke NAME" disables a user's refresh
tokens. Its login page is a program for browsers; a test calls what that calls. Access tokens live TOKEN_LIFE seconds.
Needs: DEBIAN (where the package was unpacked), CLIENT_ID, CLIENT_SECRET, REDIRECT_URI.
"""

import ctypes
import http.cookiejar
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from launcher import free_port, obey

CONFIGURATION = """
port={port}
bind_address="127.0.0.1"
external_url="http://127.0.0.1:{port}"
login_url="login.html"
api_prefix="api"
log_mode="console"
log_level="WARNING"
cookie_secure=0
session_key="GLEWLWYD2_SESSION_ID"
admin_scope="g_admin"
profile_scope="g_profile"
user_module_path="{debian}/usr/lib/glewlwyd/user"
client_module_path="{debian}/usr/lib/glewlwyd/client"
user_auth_scheme_module_path="{debian}/usr/lib/glewlwyd/scheme"
plugin_module_path="{debian}/usr/lib/glewlwyd/plugin"
hash_algorithm="SHA512"
database = {{ type = "sqlite3"  path = "{folder}/db" }};
"""

debian = os.environ["DEBIAN"]
folder = tempfile.TemporaryDirectory()
port = free_port()
base = f"http://127.0.0.1:{port}"
issuer = f"{base}/api/oidc"

database = sqlite3.connect(f"{folder.name}/db")
with open(f"{debian}/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3") as schema:
    database.executescript(schema.read())
database.close()
with open(f"{folder.name}/glewlwyd.conf", "w") as file:
    file.write(CONFIGURATION.format(port=port, debian=debian, folder=folder.name))


def end_with_parent():
    """The kernel ends the server when this process is gone, however it went."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


libraries = ":".join([f"{debian}/usr/lib/x86_64-linux-gnu", os.environ.get("LD_LIBRARY_PATH", "")])
server = subprocess.Popen(
    [f"{debian}/usr/bin/glewlwyd", "--config-file", f"{folder.name}/glewlwyd.conf"],
    env={**os.environ, "LD_LIBRARY_PATH": libraries},
    stdin=subprocess.DEVNULL,
    stdout=sys.stderr,
    preexec_fn=end_with_parent,
)


class Session:
    """What somebody signed in may do."""

    def __init__(self, name, password):
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)
        self.call("POST", "/api/auth/", {"username": name, "password": password})

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            answer = self.opener.open(request, timeout=30).read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error} {error.read()}") from None
        return json.loads(answer) if answer else None


def wait_until_it_listens():
    while True:
        if server.poll() is not None:
            sys.exit(f"glewlwyd ended with {server.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)


wait_until_it_listens()
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
admin = Session("admin", "password")
admin.call(
    "POST",
    "/api/mod/plugin/",
    {
        "module": "oidc",
        "name": "oidc",
        "display_name": "OpenID",
        "parameters": {
            "iss": issuer,
            "jwt-type": "rsa",
            "jwt-key-size": "256",
            "key": key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
            "cert": key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode(),
            "access-token-duration": int(os.environ.get("TOKEN_LIFE", "3600")),
            "refresh-token-duration": 1209600,
            "code-duration": 600,
            "refresh-token-rolling": True,
            "refresh-token-one-use": "never",
            "client-refresh-token-one-use-parameter": "refresh-token-one-use",
            "allow-non-oidc": False,
            "auth-type-code-enabled": True,
            "auth-type-code-revoke-replayed": False,
            "auth-type-token-enabled": True,
            "auth-type-id-token-enabled": True,
            "auth-type-none-enabled": True,
            "auth-type-password-enabled": False,
            "auth-type-client-enabled": True,
            "auth-type-device-enabled": False,
            "auth-type-refresh-enabled": True,
            "scope": [],
            "additional-parameters": [],
            "claims": [],
            "jwks-show": True,
            "jwks-x5c": [],
            "request-parameter-allow": True,
            "secret-type": "pairwise",
            "address-claim": {"type": "no"},
            "name-claim": "on-demand",
            "name-claim-scope": [],
            "email-claim": "no",
            "email-claim-scope": [],
            "scope-claim": "no",
            "scope-claim-scope": [],
            "allowed-scope": ["openid"],
            "pkce-allowed": True,
            "pkce-method-plain-allowed": False,
        },
        "order_rank": 0,
    },
)
for name in ["alice", "bob"]:
    user = {"username": name, "password": f"the password of {name}", "enabled": True, "scope": ["openid", "g_profile"]}
    admin.call("POST", "/api/user/", user)
admin.call(
    "POST",
    "/api/client/",
    {
        "client_id": os.environ["CLIENT_ID"],
        "client_secret": os.environ["CLIENT_SECRET"],
        "name": "tokenward",
        "enabled": True,
        "confidential": True,
        "scope": [],
        "redirect_uri": [os.environ["REDIRECT_URI"]],
        "authorization_type": ["code", "refresh_token"],
        "token_endpoint_auth_method": ["client_secret_post"],
    },
)


def revoke(name):
    user = Session(name, f"the password of {name}")
    live = [token for token in user.call("GET", "/api/oidc/token") if token["enabled"]]
    for token in live:
        user.call("DELETE", "/api/oidc/token/" + urllib.request.quote(token["token_hash"], safe=""))
    return len(live)


obey(issuer, revoke)
server.kill()
server.wait()
folder.cleanup()
