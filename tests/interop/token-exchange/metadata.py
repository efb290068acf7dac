"""Reads the metadata of an authorization server as Authlib does, and checks it by Authlib's rules."""

import os
import sys

import requests
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url

# The server of the tests is on this machine, without TLS.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
issuer = sys.argv[1]
with requests.Session() as session:
    session.trust_env = False
    answer = session.get(get_well_known_url(issuer, external=True))
answer.raise_for_status()
metadata = AuthorizationServerMetadata(answer.json())
metadata.validate()
assert metadata["issuer"] == issuer, metadata["issuer"]
print(metadata["token_endpoint"])
