"""idpyoidc as an OpenID provider: the library's defaults behind a small web application of ours, users alice and bob.

How a refusal becomes an HTTP answer is the application's business; this one does it as the flask example that comes with
the library: what is not an OAuth error of the endpoint's own is `400 invalid_request`.

Access tokens live TOKEN_LIFE seconds. Prints {"issuer"} when it answers and ends when standard input does; the line "revoke NAME" revokes a user's grants.
Needs: CLIENT_ID, CLIENT_SECRET, REDIRECT_URI.
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from idpyoidc.message.oidc import AuthorizationRequest
from idpyoidc.server import Server
from idpyoidc.server.configure import OPConfiguration
from idpyoidc.server.exception import FailedAuthentication
from idpyoidc.server.user_authn.user import UserAuthnMethod, create_signed_jwt
from idpyoidc.time_util import utc_time_sans_frac
from werkzeug.wrappers import Request, Response

from launcher import Place

PASSWORD = "urn:oasis:names:tc:SAML:2.0:ac:classes:InternetProtocolPassword"
LOGIN = """<form method="post" action="/verify"><input type="hidden" name="token" value="{token}">
<input type="text" name="username"><input type="password" name="password"><input type="submit"></form>"""

place = Place()
LIFE = int(os.environ.get("TOKEN_LIFE", "3600"))
sessions = {"alice": [], "bob": []}


class Form(UserAuthnMethod):
    """A login form; everybody's password is the name."""

    def __call__(self, **kwargs):
        context, keyjar = self.upstream_get("context"), self.upstream_get("attribute", "keyjar")
        return LOGIN.format(token=create_signed_jwt(context.issuer, keyjar, **kwargs))

    def verify(self, username, password):
        if username not in sessions or password != username:
            raise FailedAuthentication()
        return username


def keys(name, defs):
    return {"private_path": place.path(name), "key_defs": defs, "read_only": False}


server = Server(
    OPConfiguration(
        {
            "issuer": place.url,
            "key_conf": {
                "uri_path": "jwks",
                "key_defs": [
                    {"type": "RSA", "use": ["sig"]},
                    {"type": "EC", "crv": "P-256", "use": ["sig"]},
                ]
            },
            "cookie_handler": {
                "class": "idpyoidc.server.cookie_handler.CookieHandler",
                "kwargs": {
                    "keys": keys("cookies", [{"type": "OCT", "use": [use], "kid": use} for use in ["enc", "sig"]]),
                    "name": {"session": "oidc_op", "register": "oidc_op_rp", "session_management": "sman"},
                },
            },
            "authentication": {"user": {"acr": PASSWORD, "class": "__main__.Form", "kwargs": {}}},
            "authz": {
                "class": "idpyoidc.server.authz.AuthzHandling",
                "kwargs": {
                    "grant_config": {
                        "usage_rules": {
                            "authorization_code": {
                                "supports_minting": ["access_token", "refresh_token", "id_token"],
                                "max_usage": 1,
                                "expires_in": 120,
                            },
                            "access_token": {"expires_in": LIFE},
                            "refresh_token": {
                                "supports_minting": ["access_token", "refresh_token", "id_token"],
                                "expires_in": 86400,
                            },
                        },
                        "expires_in": 2592000,
                    }
                },
            },
            "userinfo": {"class": "idpyoidc.server.user_info.UserInfo", "kwargs": {"db": {"alice": {}, "bob": {}}}},
            "token_handler_args": {
                "jwks_def": keys("tokens", [{"type": "oct", "bytes": 24, "use": ["enc"], "kid": "code"}]),
                "code": {"kwargs": {"lifetime": 600}},
                "token": {"class": "idpyoidc.server.token.jwt_token.JWTToken", "kwargs": {"lifetime": LIFE}},
                "refresh": {"class": "idpyoidc.server.token.jwt_token.JWTToken", "kwargs": {"lifetime": 86400}},
                "id_token": {"class": "idpyoidc.server.token.id_token.IDToken", "kwargs": {}},
            },
        }
    ),
    cwd=place.folder.name,
)
server.context.cdb[place.client_id] = {
    "client_id": place.client_id,
    "client_secret": place.client_secret,
    "redirect_uris": [(place.redirect_uri, {})],
    "response_types_supported": ["code"],
    "allowed_scopes": ["openid", "offline_access"],
    "token_endpoint_auth_method": "client_secret_basic",
}
server.keyjar.add_symmetric(place.client_id, place.client_secret)


def answer(endpoint, args, request):
    """What the endpoint found out, as HTTP."""
    if "error" in args:
        return Response(json.dumps(dict(args)), 400, content_type="application/json")
    if "http_response" in args:
        return Response(args["http_response"], content_type="text/html")
    if "redirect_location" in args:
        return Response(status=303, headers={"Location": args["redirect_location"]})
    info = endpoint.do_response(request=request, **args)
    if info.get("response_placement", endpoint.response_placement) == "url":
        return Response(status=303, headers={"Location": info["response"]})
    return Response(info["response"], info.get("response_code", 200), headers=info["http_headers"])


def call(endpoint, http):
    form = http.args.to_dict() if http.method == "GET" else http.form.to_dict()
    info = {"headers": {name.lower(): value for name, value in http.headers}, "method": http.method, "url": http.url}
    try:
        request = endpoint.parse_request(form, http_info=info)
    except Exception as error:
        refusal = {"error": "invalid_request", "error_description": str(error)}
        return Response(json.dumps(refusal), 400, content_type="text/html")
    if "error" in request:
        return answer(endpoint, request, request)
    return answer(endpoint, endpoint.process_request(request, http_info=info), request)


def verify(http):
    """The login form comes back."""
    method = server.context.authn_broker.pick(PASSWORD)[0]["method"]
    name = method.verify(username=http.form["username"], password=http.form["password"])
    asked = method.unpack_token(http.form["token"])
    request = AuthorizationRequest().from_urlencoded(asked["query"])
    endpoint = server.get_endpoint("authorization")
    session = endpoint.create_session(request, name, asked["authn_class_ref"], utc_time_sans_frac(), method)
    sessions[name].append(session)
    return answer(endpoint, endpoint.authz_part2(request=request, session_id=session), request)


@Request.application
def app(http):
    if http.path == "/verify":
        return verify(http)
    for endpoint in server.endpoint.values():
        if http.path == "/" + endpoint.endpoint_path.strip("/"):
            return call(endpoint, http)
    if http.path == "/jwks":
        return Response(server.keyjar.export_jwks_as_json(), content_type="application/json")
    return Response("not found", 404)


def revoke(name):
    count = 0
    for session in sessions[name]:
        for token in server.context.session_manager.get_grant(session).issued_token:
            if token.token_class == "refresh_token" and not token.revoked:
                token.revoke()
                count += 1
    return count


place.serve(app, place.url, revoke)
