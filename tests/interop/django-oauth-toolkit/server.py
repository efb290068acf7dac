"""django-oauth-toolkit as an OpenID provider: its defaults, an RSA key, Django's own login page, users alice and bob.

Prints {"issuer"} when it answers and ends when standard input does; the line "revoke NAME" withdraws a user's refresh
tokens. Needs: CLIENT_ID, CLIENT_SECRET, REDIRECT_URI.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import django
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings
from django.core.management import call_command
from django.urls import include, path

from launcher import Place

LOGIN = '<form method="post">{% csrf_token %}{{ form }}<input type="submit"></form>'

place = Place()
key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    SECRET_KEY="of the tests",
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "oauth2_provider",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": place.path("db"), "OPTIONS": {"timeout": 30}}},
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "context_processors": ["django.template.context_processors.request"],
                "loaders": [
                    ("django.template.loaders.locmem.Loader", {"registration/login.html": LOGIN}),
                    "django.template.loaders.app_directories.Loader",
                ],
            },
        }
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    LOGIN_URL="/login/",
    USE_TZ=True,
    OAUTH2_PROVIDER={
        "OIDC_ENABLED": True,
        "OIDC_RSA_PRIVATE_KEY": key.decode(),
        "SCOPES": {"openid": "OpenID", "read": "Read"},
    },
)
django.setup()

from django.contrib.auth import get_user_model
from django.contrib.auth.views import LoginView
from django.core.wsgi import get_wsgi_application
from django.utils import timezone
from oauth2_provider.models import get_application_model, get_refresh_token_model

urlpatterns = [path("o/", include("oauth2_provider.urls", "oauth2_provider")), path("login/", LoginView.as_view())]

call_command("migrate", verbosity=0)
for name in ["alice", "bob"]:
    get_user_model().objects.create_user(name, password=name)
get_application_model().objects.create(
    client_id=place.client_id,
    client_secret=place.client_secret,
    redirect_uris=place.redirect_uri,
    client_type="confidential",
    authorization_grant_type="authorization-code",
    algorithm="RS256",
)


def revoke(name):
    theirs = get_refresh_token_model().objects.filter(user__username=name, revoked__isnull=True)
    return theirs.update(revoked=timezone.now())


place.serve(get_wsgi_application(), f"{place.url}/o", revoke)
