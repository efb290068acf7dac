"""The Graph SDK for Python works through the relay, unmodified but for its base URL and an anonymous authentication provider.

The caller's key is a default field of the HTTP client, as it would be with any reverse proxy. The arguments are the base URL
(`…/relay/graph/v1.0`) and the steps; each step prints one line of JSON, {"step", …} or {"step", "error"}.
"""

import asyncio
import hashlib
import io
import json
import os
import sys

import httpx
from kiota_abstractions.api_error import APIError
from kiota_abstractions.authentication import AnonymousAuthenticationProvider
from kiota_abstractions.method import Method
from kiota_abstractions.request_information import RequestInformation
from msgraph import GraphServiceClient
from msgraph.generated.models.attachment_item import AttachmentItem
from msgraph.generated.models.attachment_type import AttachmentType
from msgraph.generated.models.body_type import BodyType
from msgraph.generated.models.email_address import EmailAddress
from msgraph.generated.models.item_body import ItemBody
from msgraph.generated.models.message import Message
from msgraph.generated.models.recipient import Recipient
from msgraph.generated.users.item.messages.item.attachments.create_upload_session.create_upload_session_post_request_body import (
    CreateUploadSessionPostRequestBody,
)
from msgraph.generated.users.item.messages.messages_request_builder import MessagesRequestBuilder
from msgraph.generated.users.item.send_mail.send_mail_post_request_body import SendMailPostRequestBody
from msgraph.graph_request_adapter import GraphRequestAdapter, options
from msgraph_core import GraphClientFactory
from msgraph_core.requests.batch_request_builder import BatchRequestBuilder
from msgraph_core.requests.batch_request_content import BatchRequestContent
from msgraph_core.requests.batch_request_item import BatchRequestItem
from msgraph_core.tasks.large_file_upload import LargeFileUploadTask
from msgraph_core.tasks.page_iterator import PageIterator

BASE = sys.argv[1]
SIZE = 64 * 1024 * 1024


def adapter():
    key = os.environ["RELAY_KEY"]
    client = httpx.AsyncClient(base_url=BASE, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    client = GraphClientFactory.create_with_default_middleware(options=options, client=client)
    graph = GraphRequestAdapter(AnonymousAuthenticationProvider(), client)
    graph.base_url = BASE
    return graph


async def pages(graph):
    query = MessagesRequestBuilder.MessagesRequestBuilderGetQueryParameters(top=90)
    configuration = MessagesRequestBuilder.MessagesRequestBuilderGetRequestConfiguration(query_parameters=query)
    first = await GraphServiceClient(request_adapter=graph).me.messages.get(request_configuration=configuration)
    subjects = []

    def take(message):
        subjects.append(message.subject)
        return True

    await PageIterator(first, graph).iterate(take)
    return {"messages": len(subjects), "last": subjects[-1]}


async def mail(graph):
    address = EmailAddress(address="bob@fabrikam.example")
    message = Message(
        subject="By the relay", body=ItemBody(content_type=BodyType.Text, content="Hello"),
        to_recipients=[Recipient(email_address=address)])
    await GraphServiceClient(request_adapter=graph).me.send_mail.post(SendMailPostRequestBody(message=message))
    return {"sent": True}


async def upload(graph):
    item = AttachmentItem(attachment_type=AttachmentType.File, name="big.bin", size=SIZE)
    body = CreateUploadSessionPostRequestBody(attachment_item=item)
    attachments = GraphServiceClient(request_adapter=graph).me.messages.by_message_id("AAMkAGI0001=").attachments
    session = await attachments.create_upload_session.post(body)
    content = os.urandom(SIZE)
    task = LargeFileUploadTask(session, graph, io.BytesIO(content), max_chunk_size=4 * 1024 * 1024)
    try:
        await task.upload()
    except APIError as error:
        # When all has come, the SDK sends its last part once more (msgraph-sdk-python-core, issue 718), and there is no
        # session any more. Whether all has come, the other side knows.
        if error.response_status_code != 404:
            raise
    inside = session.upload_url.startswith(BASE)
    return {"inside": inside, "bytes": SIZE, "sha256": hashlib.sha256(content).hexdigest()}


async def batch(graph):
    def get(path):
        request = RequestInformation()
        request.http_method, request.url = Method.GET, f"{BASE}{path}"
        return request

    items = [BatchRequestItem(get("/me/messages"), id="1"), BatchRequestItem(get("/me/contacts"), id="2")]
    content = BatchRequestContent({item.id: item for item in items})
    answer = await BatchRequestBuilder(graph).post(content)
    return {"statuses": [answer.get_response_status_codes()[id] for id in ["1", "2"]]}


async def first(graph):
    page = await GraphServiceClient(request_adapter=graph).me.messages.get()
    return {"messages": len(page.value)}


STEPS = {"pages": pages, "mail": mail, "upload": upload, "batch": batch, "first": first}


async def main():
    graph = adapter()
    for step in sys.argv[2:]:
        try:
            outcome = await STEPS[step](graph)
        except Exception as error:  # what its user would see
            outcome = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"step": step, **outcome}), flush=True)


asyncio.run(main())
