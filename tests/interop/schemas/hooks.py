"""What no schema can say: values that only this deployment has.

A cursor is sealed, a return URL is one that is configured, scopes are the app's, and a text of claims holds JSON.
Only requests that are meant to be valid are changed.
"""

import schemathesis

RETURN_URL = "https://app.contoso.example/settings/outlook"
SCOPES = ["Mail.Read", "Calendars.Read"]
CLAIMS = '{"access_token":{"nbf":{"essential":true,"value":"17"}}}'


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is not None and not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.query, dict) and "cursor" in case.query:
        del case.query["cursor"]
    if isinstance(case.body, dict):
        if isinstance(case.body.get("return_url"), str):
            case.body["return_url"] = RETURN_URL
        if isinstance(case.body.get("claims"), str):
            case.body["claims"] = CLAIMS
        if isinstance(case.body.get("scopes"), str):
            case.body["scopes"] = " ".join(SCOPES)
        if isinstance(case.body.get("scopes"), list):
            case.body["scopes"] = SCOPES
