"""MSAL for Python against the emulator: code with PKCE, silent refresh, client credentials, certificate.

Environment: EMU_BASE_URL (https), EMU_CA_FILE, EMU_CLIENT_ID, EMU_CLIENT_SECRET, EMU_CERT_FILE and EMU_KEY_FILE
(PEM); optional EMU_TENANT (contoso.example), EMU_REDIRECT_URI (http://localhost/callback) and EMU_CACHE_FILE, which
gets MSAL's cache.
Prints one line per proved step and exits 0 if all of them hold. Needs: pip install msal
"""

import os
import sys
from urllib.parse import parse_qsl, urlsplit

import msal
import requests

BASE = os.environ["EMU_BASE_URL"]
CA = os.environ["EMU_CA_FILE"]
CLIENT = os.environ["EMU_CLIENT_ID"]
SECRET = os.environ["EMU_CLIENT_SECRET"]
CERT = os.environ["EMU_CERT_FILE"]
KEY = os.environ["EMU_KEY_FILE"]
TENANT = os.environ.get("EMU_TENANT", "contoso.example")
REDIRECT = os.environ.get("EMU_REDIRECT_URI", "http://localhost/callback")
CACHE = os.environ.get("EMU_CACHE_FILE")
SCOPES = ["User.Read", "Mail.Read"]
DEFAULT = ["https://graph.microsoft.com/.default"]


# A session of our own, because requests prefers REQUESTS_CA_BUNDLE and proxies of the environment to `verify=`.
web = requests.Session()
web.verify = CA
web.trust_env = False


def application(tenant, credential):
    # The emulator is no host that Microsoft knows, so MSAL must not ask Microsoft about it.
    return msal.ConfidentialClientApplication(
        CLIENT,
        client_credential=credential,
        authority=f"{BASE}/{tenant}",
        instance_discovery=False,
        http_client=web,
        token_cache=msal.SerializableTokenCache(),
    )


def must(result, *fields):
    missing = [field for field in fields if field not in result]
    if missing:
        sys.exit(f"missing {missing} in {result}")
    return result


def sign_in(app):
    flow = app.initiate_auth_code_flow(SCOPES, redirect_uri=REDIRECT)
    reply = web.get(flow["auth_uri"], allow_redirects=False, timeout=10)
    answer = dict(parse_qsl(urlsplit(reply.headers["location"]).query))
    return must(app.acquire_token_by_auth_code_flow(flow, answer), "access_token", "id_token_claims")


for tenant in ("common", "organizations", TENANT):
    app = application(tenant, SECRET)
    result = sign_in(app)
    name = result["id_token_claims"]["preferred_username"]
    print(f"ok: signed {name} in at {tenant} with a code and PKCE")

if CACHE:
    with open(CACHE, "w", encoding="utf-8") as file:
        file.write(app.token_cache.serialize())

account = app.get_accounts()[0]
cached = must(app.acquire_token_silent(SCOPES, account=account), "access_token")
if cached["access_token"] != result["access_token"]:
    sys.exit("the cached token was not used")
print("ok: the token came from the cache")
fresh = must(app.acquire_token_silent(SCOPES, account=account, force_refresh=True), "access_token")
if fresh["access_token"] == result["access_token"]:
    sys.exit("the token was not refreshed")
print("ok: refreshed silently")

me = web.get(f"{BASE}/v1.0/me", headers={"Authorization": f"Bearer {fresh['access_token']}"}, timeout=10)
print(f"ok: Graph says {me.json()['userPrincipalName']}")

must(application(TENANT, SECRET).acquire_token_for_client(DEFAULT), "access_token")
print("ok: client credentials with the secret")

with open(CERT, encoding="ascii") as cert, open(KEY, encoding="ascii") as key:
    certificate, private_key = cert.read(), key.read()
registered = web.post(
    f"{BASE}/_emulator/apps/{CLIENT}/certificates", json={"certificates": [certificate]}, timeout=10
)
registered.raise_for_status()
credential = {"private_key": private_key, "public_certificate": certificate}
must(application(TENANT, credential).acquire_token_for_client(DEFAULT), "access_token")
print("ok: client credentials with the certificate")
must(sign_in(application("common", credential)), "access_token")
print("ok: a code redeemed with the certificate")
