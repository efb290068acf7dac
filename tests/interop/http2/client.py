"""Asks over HTTP/2 as httpx does.

Standard input is a list of cases in JSON, each with `url`, `ca`, `headers`, and perhaps `certificate` and `key`. Standard
output is a list, for each case the list of its answers: protocol, status and body.
"""

import json
import ssl
import sys

import httpx


def ask(case):
    context = ssl.create_default_context(cafile=case["ca"])
    if "certificate" in case:
        context.load_cert_chain(case["certificate"], case["key"])
    with httpx.Client(http2=True, verify=context, trust_env=False) as client:
        answers = [client.get(case["url"], headers=case["headers"]) for _ in range(3)]
    return [[answer.http_version, answer.status_code, answer.text] for answer in answers]


print(json.dumps([ask(case) for case in json.load(sys.stdin)]))
