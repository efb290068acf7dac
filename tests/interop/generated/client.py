"""A client that openapi-python-client made gets a token, and reads a refusal as a problem."""

import json
import os
import sys

sys.path.insert(0, sys.argv[1])

from tokenward_client import AuthenticatedClient  # noqa: E402
from tokenward_client.api.tokens import token  # noqa: E402
from tokenward_client.models import Token, TokenResponse404  # noqa: E402

client = AuthenticatedClient(
    base_url=os.environ["TOKENWARD_URL"], token=os.environ["TOKENWARD_KEY"], raise_on_unexpected_status=True
)
got = token.sync("outlook", "team-a/user-7", client=client, scope="Mail.Read")
assert isinstance(got, Token), got
refused = token.sync("outlook", "nobody", client=client)
assert isinstance(refused, TokenResponse404), refused
print(json.dumps({"token": got.access_token, "account": got.account.username, "refused": refused.code.value}))
