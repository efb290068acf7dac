"""azure-identity, msal and the Graph SDK for Python ask the managed-identity endpoint of tokenward, unmodified.

The clients read IDENTITY_ENDPOINT and IDENTITY_HEADER from the environment by themselves. The one argument is a JSON list of
jobs; each prints one line of JSON. A job is {"with": CLIENT, "client_id"?, "scope"?}:
- "azure-identity", "msal": {"token", "expires_on"} or {"error": what the client shows its user}.
- "msgraph-sdk": the Graph SDK over azure-identity lists messages at GRAPH_URL: {"subjects"} or {"error"}.
"""

import asyncio
import json
import os
import sys
import time

DEFAULT = "https://graph.microsoft.com/.default"


def azure_identity(job):
    from azure.identity import ManagedIdentityCredential

    credential = ManagedIdentityCredential(client_id=job.get("client_id"))
    token = credential.get_token(job.get("scope", DEFAULT))
    return {"token": token.token, "expires_on": token.expires_on}


def msal(job):
    import requests
    from msal import ManagedIdentityClient, SystemAssignedManagedIdentity, UserAssignedManagedIdentity

    name = job.get("client_id")
    identity = UserAssignedManagedIdentity(client_id=name) if name else SystemAssignedManagedIdentity()
    client = ManagedIdentityClient(identity, http_client=requests.Session())
    result = client.acquire_token_for_client(resource=job.get("scope", DEFAULT).removesuffix("/.default"))
    if "access_token" not in result:
        return {"error": f"{result['error']}: {result['error_description']}"}
    return {"token": result["access_token"], "expires_on": int(time.time()) + result["expires_in"]}


def msgraph_sdk(job):
    from azure.identity import ManagedIdentityCredential
    from kiota_authentication_azure.azure_identity_authentication_provider import AzureIdentityAuthenticationProvider
    from msgraph import GraphRequestAdapter, GraphServiceClient

    async def subjects():
        credential = ManagedIdentityCredential(client_id=job.get("client_id"))
        host = os.environ["GRAPH_URL"].split("/")[2].rsplit(":", 1)[0]
        provider = AzureIdentityAuthenticationProvider(credential, scopes=[DEFAULT], allowed_hosts=[host])
        adapter = GraphRequestAdapter(provider)
        adapter.base_url = os.environ["GRAPH_URL"] + "/v1.0"
        page = await GraphServiceClient(request_adapter=adapter).me.messages.get()
        return [message.subject for message in page.value]

    return {"subjects": asyncio.run(subjects())}


CLIENTS = {"azure-identity": azure_identity, "msal": msal, "msgraph-sdk": msgraph_sdk}

for job in json.loads(sys.argv[1]):
    try:
        outcome = CLIENTS[job["with"]](job)
    except Exception as error:  # What its user would see.
        outcome = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(outcome), flush=True)
