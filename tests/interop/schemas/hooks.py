"""What no schema can say: values that only this deployment has.

A cursor is sealed, a relayed path has several segments, a return URL is one that is configured, scopes are the app's, and
a text of claims holds JSON. Half of the requests name what is there (`TOKENWARD_VALUES`: members by path, those of "" for
every path), so that not every answer is "no such connection"; what has no way to be absent is named by all of them
("always", by path). Only parts of a request that are meant to be valid are changed; schemathesis judges anew what a
request is after that.
"""

import json
import os
import zlib

import schemathesis
from schemathesis.core.parameters import ParameterLocation

RETURN_URL = "https://app.contoso.example/settings/outlook"
SCOPES = ["Mail.Read", "Calendars.Read"]
RELAYED = "GET graph:/v1.0/me"
CLAIMS = '{"access_token":{"nbf":{"essential":true,"value":"17"}}}'
# Of what is in a path, a query or a body: what is there.
VALUES = json.loads(os.environ.get("TOKENWARD_VALUES", "{}"))


def is_meant_valid(case, location):
    if case.meta is None:
        return True
    part = case.meta.components.get(location)
    return part is None or part.mode.is_positive


def names_what_is_there(case):
    """Of each two requests one, told by the request itself, so that a seed gives the same run."""
    return zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode()) % 2 == 0


def put_values(values, container):
    for name, value in values.items():
        if isinstance(container.get(name), str):
            container[name] = value


@schemathesis.hook
def before_call(context, case, kwargs):
    values = VALUES.get(case.operation.path, {}) if names_what_is_there(case) else {}
    common = VALUES.get("", {}) if values or names_what_is_there(case) else {}
    if case.method == "DELETE":
        # Else nothing would be there for what comes after it.
        common = {**common, "connection": "team-b/gone"}
    common = {**VALUES.get("always", {}).get(case.operation.path, {}), **common}
    if is_meant_valid(case, ParameterLocation.PATH) and isinstance(case.path_parameters, dict):
        put_values({**common, **values}, case.path_parameters)
        if "/relay/" in case.operation.path:
            # A parameter's slash is sent escaped, which no path below a base may have.
            case.path_parameters["path"] = "me"
    if is_meant_valid(case, ParameterLocation.QUERY) and isinstance(case.query, dict):
        case.query.pop("cursor", None)
        # A long poll waits for as long as it says.
        if case.query.get("wait") not in (None, 0, "0"):
            case.query["wait"] = 1
        put_values({**common, **values}, case.query)
        if case.operation.path.endswith("/policy") and case.query.get("connect") != "1":
            case.query["scope"] = case.query.get("scope") or SCOPES[0]
        if case.operation.path.endswith("/policy") and case.query.get("relay"):
            # It stands alone: a request, and no right to connect.
            case.query["relay"] = RELAYED
            case.query["connect"] = "0"
    if is_meant_valid(case, ParameterLocation.BODY) and isinstance(case.body, dict):
        if isinstance(case.body.get("return_url"), str):
            case.body["return_url"] = RETURN_URL
        if case.operation.path == "/v1/connect-sessions" and isinstance(case.body.get("account"), dict):
            # The connection has another account.
            case.body["change_account"] = True
        if isinstance(case.body.get("claims"), str):
            case.body["claims"] = CLAIMS
        if isinstance(case.body.get("scopes"), str):
            case.body["scopes"] = " ".join(SCOPES)
        if isinstance(case.body.get("scopes"), list):
            case.body["scopes"] = SCOPES
        if case.operation.path == "/admin/v1/revocations":
            # The same: it ends what it names. What it names is known the first time only.
            case.body.update(tenant=VALUES["revoked"], even_if_unknown=True)
            # A handle stands alone.
            case.body.pop("handle", None)
        if isinstance(case.body.get("relay"), list):
            case.body["relay"] = [RELAYED]
        if case.operation.path == "/admin/v1/exports":
            case.body.pop("cursor", None)
        if case.operation.path == "/admin/v1/imports" and isinstance(case.body.get("caller"), str):
            case.body["caller"] = VALUES[""]["caller"]
        put_values(values, case.body)
        if "client_secret" in values:
            case.body.update({name: values[name] for name in ("client_id", "client_secret")})
