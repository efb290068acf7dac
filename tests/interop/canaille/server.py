"""Canaille as an OpenID provider: its defaults (an RSA key without `alg`, so RS512), its own pages, users alice and bob.

SERVER_NAME is set, as its documentation asks for. Prints {"issuer"} when it answers and ends when standard input does;
the line "revoke NAME" withdraws a user's refresh tokens. Needs: CLIENT_ID, CLIENT_SECRET, REDIRECT_URI.
"""

import datetime
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend

from launcher import Place

place = Place()
app = create_app(
    {
        "SECRET_KEY": "of the tests",
        "SERVER_NAME": place.url.removeprefix("http://"),
        "PREFERRED_URL_SCHEME": "http",
        "CANAILLE_SQL": {"DATABASE_URI": f"sqlite:///{place.path('db')}", "PASSWORD_SCHEMES": "pbkdf2_sha512"},
        "CANAILLE": {"LOGGING": {"version": 1, "disable_existing_loggers": True}},
        "CANAILLE_OIDC": {},
    },
    init_backend=True,
)


def now():
    return datetime.datetime.now(datetime.timezone.utc)


with app.app_context(), Backend.instance.session():
    for name in ["alice", "bob"]:
        user = models.User(
            user_name=name, formatted_name=name, family_name=name, emails=[f"{name}@example.org"], password=name
        )
        Backend.instance.save(user)
    client = models.Client(
        client_id=place.client_id,
        client_name="tokenward",
        client_secret=place.client_secret,
        client_id_issued_at=now(),
        contacts=["help@example.org"],
        redirect_uris=[place.redirect_uri],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        scope=["openid", "profile"],
        token_endpoint_auth_method="client_secret_basic",
    )
    Backend.instance.save(client)
    # What its administrator's page sets, and its command line only with --audience.
    client.audience = [client]
    Backend.instance.save(client)


def revoke(name):
    with app.app_context(), Backend.instance.session():
        user = Backend.instance.get(models.User, user_name=name)
        theirs = [token for token in Backend.instance.query(models.Token, subject=user) if not token.revokation_date]
        for token in theirs:
            token.revokation_date = now()
            Backend.instance.save(token)
        return len(theirs)


place.serve(app, place.url, revoke)
