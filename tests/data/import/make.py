"""Makes the fixtures of other systems that Python programs write. Nothing in them is real.

    python3 -m venv venv && venv/bin/pip install msal==1.34.0 emailproxy jwcrypto
    venv/bin/python tests/data/import/make.py
"""

import base64
import configparser
import json
import pathlib

import msal
from jwcrypto import jwe, jwk

HERE = pathlib.Path(__file__).parent
CLIENT = "11111111-2222-3333-4444-555555555555"
TENANT = "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b"
GUESTS = "99999999-8888-4777-8666-555555555555"
ALICE = "503c2116-3318-4ef4-9137-98e7501a0886"


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def answer(oid, tid, username, refresh_token, home=None, **more):
    claims = {"iss": f"https://login.microsoftonline.com/{tid}/v2.0", "aud": CLIENT, "sub": f"sub-{oid}", "tid": tid,
              "oid": oid, "preferred_username": username, "exp": 4102444800, "iat": 1764500000}
    home_oid, home_tid = home or (oid, tid)
    return {"token_type": "Bearer", "scope": "openid profile Mail.Read", "expires_in": 3600,
            "access_token": f"access-of-{username}", "refresh_token": refresh_token,
            "id_token": f"{encoded({'alg': 'none'})}.{encoded(claims)}.x",
            "client_info": encoded({"uid": home_oid, "utid": home_tid}), **more}


def msal_cache():
    cache = msal.SerializableTokenCache()
    for tid, response in [
        (TENANT, answer(ALICE, TENANT, "alice@contoso.com", "refresh-of-alice")),
        # A guest of the tenant, whose home is elsewhere.
        (TENANT, answer("77777777-1111-4222-8333-444444444444", TENANT, "gina@fabrikam.com", "refresh-of-gina",
                        home=("66666666-1111-4222-8333-444444444444", GUESTS))),
        # A family refresh token, as Microsoft's own applications get it.
        (TENANT, answer("55555555-1111-4222-8333-444444444444", TENANT, "fred@contoso.com", "refresh-of-fred", foci="1")),
    ]:
        cache.add({"client_id": CLIENT, "scope": ["Mail.Read"], "response": response, "environment":
                   "login.microsoftonline.com", "token_endpoint":
                   f"https://login.microsoftonline.com/{tid}/oauth2/v2.0/token", "grant_type": "authorization_code"})
    (HERE / "msal-python.json").write_text(cache.serialize() + "\n")


def email_proxy():
    import emailproxy

    emailproxy.CONFIG_FILE_PATH = "/nowhere"
    config = configparser.ConfigParser(interpolation=None)
    path = HERE / "emailproxy.config"
    for username, iterations in [("alice@contoso.com", None), ("bob@contoso.com", "100000")]:
        config.add_section(username)
        config.set(username, "client_id", CLIENT)
        config.set(username, "oauth2_scope", "https://outlook.office365.com/IMAP.AccessAsUser.All offline_access")
        if iterations:
            config.set(username, "token_iterations", iterations)
        cryptographer = emailproxy.Cryptographer(config, username, "correct horse")
        config.set(username, "token_salt", cryptographer.salt)
        config.set(username, "token_iterations", str(cryptographer.iterations))
        config.set(username, "access_token", cryptographer.encrypt("access"))
        config.set(username, "refresh_token", cryptographer.encrypt(f"refresh-of-{username.split('@')[0]}"))
    with path.open("w") as file:
        config.write(file)


def sealed():
    key = jwk.JWK.generate(kty="OKP", crv="X25519")
    private = json.loads(key.export_private())
    token = jwe.JWE(b'{"refresh_token":"of-jwcrypto"}', json.dumps({"alg": "ECDH-ES", "enc": "A256GCM"}))
    token.add_recipient(key)
    (HERE / "jwe/private.jwk").write_text(json.dumps({name: private[name] for name in ("kty", "crv", "x", "d")}) + "\n")
    (HERE / "jwe/sealed.jwe").write_text(token.serialize(compact=True) + "\n")


if __name__ == "__main__":
    msal_cache()
    sealed()
    email_proxy()
