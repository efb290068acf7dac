"""hvac, a client of Vault and OpenBao, gets tokens from tokenward: VAULT_ADDR, VAULT_TOKEN, and EXPECTED, which is the token."""

import os

import hvac

client = hvac.Client(url=os.environ["VAULT_ADDR"], token=os.environ["VAULT_TOKEN"])
assert client.sys.read_health_status().status_code == 200
assert client.sys.read_health_status(method="GET")["sealed"] is False
assert client.is_authenticated()
print("ok: healthy and authenticated")

answer = client.read("outlook/creds/team-a/alice?minimum_seconds=120")
assert answer["data"]["access_token"] == os.environ["EXPECTED"], answer
assert answer["data"]["type"] == "Bearer" and answer["data"]["expire_time"].endswith("Z"), answer
assert answer["lease_id"] == "" and answer["warnings"] is None, answer
print("ok: the token of a connection")

assert client.read("outlook/creds/nobody") is None
assert client.read("elsewhere/creds/team-a/alice") is None
print("ok: what is not there is None")

try:
    client.read("outlook/creds/renew")
    raise AssertionError("it has no token to give")
except hvac.exceptions.InvalidRequest as error:
    print(f"ok: {error.errors[0]}")

stranger = hvac.Client(url=os.environ["VAULT_ADDR"], token="s.nobody")
assert not stranger.is_authenticated()
try:
    stranger.read("outlook/creds/team-a/alice")
    raise AssertionError("nobody knows this token")
except hvac.exceptions.Forbidden as error:
    print(f"ok: {error.errors[0]}")
