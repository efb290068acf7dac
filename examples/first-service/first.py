#!/usr/bin/env python3
"""Prints the subjects of a user's newest mails: python3 first.py CONNECTION"""

import hashlib, json, os, re, sys, time, urllib.error, urllib.parse, urllib.request

TOKENWARD = os.environ.get("TOKENWARD_URL", "http://127.0.0.1:7070")
GRAPH = os.environ.get("GRAPH_URL", "https://graph.microsoft.com")


def call(url, bearer, body=None):
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.headers, refusal.read()


def token(connection, report=None):
    """An access token that works now; `report` says which one Graph refused."""
    name = urllib.parse.quote(connection, safe="")
    url = f"{TOKENWARD}/v1/apps/outlook/connections/{name}/token?connect=1"
    for last in (False, False, False, False, True):
        key = open(os.environ["TOKENWARD_KEY_FILE"]).read().strip()  # read anew: it may have been replaced
        status, headers, body = call(url, key, report)
        if status not in (429, 503) or last:
            break
        time.sleep(int(headers["Retry-After"]))  # nothing is wrong with the connection
    answer = json.loads(body)
    if status != 200:
        sys.exit(f"{answer['code']}: {answer['detail']}; {answer.get('connect_url') or answer.get('hint')}")
    return answer["access_token"]


def subjects(connection):
    url = f"{GRAPH}/v1.0/me/messages?$select=subject&$top=5"
    bearer = token(connection)
    status, headers, body = call(url, bearer)
    if status == 401:  # revoked before its time: report it once, and use the token that comes
        report = {"rejected": hashlib.sha256(bearer.encode()).hexdigest()}
        if claims := re.search(r'claims="([^"]+)"', headers.get("WWW-Authenticate", "")):
            report["claims"] = claims[1]
        status, headers, body = call(url, token(connection, report))
    if status != 200:
        sys.exit(f"Microsoft Graph answers {status}")
    return [message["subject"] for message in json.loads(body)["value"]]


if len(sys.argv) != 2 or "TOKENWARD_KEY_FILE" not in os.environ:
    sys.exit("usage: TOKENWARD_KEY_FILE=FILE python3 first.py CONNECTION")
try:
    print("\n".join(subjects(sys.argv[1])))
except OSError as error:  # the key's file, or the way to tokenward or Graph
    sys.exit(f"no key, or no answer: {error}")
