"""Asks an OAuth token endpoint as Authlib and requests do, and tells what their user sees.

Standard input is a list of cases in JSON, each with `library`, `method`, `client_id`, `client_secret`, `url` and `form`.
Standard output is a list of `{"token": ...}` or `{"shown": ...}`, in the same order.
"""

import json
import sys

import requests
from authlib.integrations.requests_client import OAuth2Session


def of_authlib(case):
    with OAuth2Session(case["client_id"], case["client_secret"], token_endpoint_auth_method=case["method"]) as session:
        session.trust_env = False
        return dict(session.fetch_token(case["url"], **case["form"]))


def of_requests(case):
    client = (case["client_id"], case["client_secret"])
    form, auth = dict(case["form"]), client
    if case["method"] == "client_secret_post":
        form["client_id"], form["client_secret"] = client
        auth = None
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(case["url"], data=form, auth=auth)
    answer.raise_for_status()
    return answer.json()


def ask(case):
    try:
        return {"token": {"authlib": of_authlib, "requests": of_requests}[case["library"]](case)}
    except Exception as error:
        return {"shown": f"{type(error).__name__}: {error}"}


print(json.dumps([ask(case) for case in json.load(sys.stdin)]))
