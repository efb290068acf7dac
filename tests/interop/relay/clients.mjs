// The Graph SDK for JavaScript (microsoft-graph-client) works through the relay, unmodified but for its base URL and an
// authentication provider that adds nothing but the caller's key.
//
// The arguments are the base URL (`https://…/relay/graph`; this SDK takes no link that is not https) and the steps; each step prints one line of JSON, {"step", …} or
// {"step", "error"}. It runs in the folder with node_modules.

import { createHash, randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.cwd()}/`);
const { BatchRequestContent, BatchResponseContent, Client, FileUpload, HTTPMessageHandler, LargeFileUploadTask, PageIterator, RetryHandler } =
  await import(pathToFileURL(require.resolve("@microsoft/microsoft-graph-client")));

const [BASE, ...STEPS] = process.argv.slice(2);
const SIZE = 64 * 1024 * 1024;

/** The one addition: the caller's key, as a middleware in front of the SDK's own. */
class WithKey {
  async execute(context) {
    const headers = new Headers(context.options?.headers);
    headers.set("Authorization", `Bearer ${process.env.RELAY_KEY}`);
    context.options = { ...context.options, headers: Object.fromEntries(headers) };
    await this.next.execute(context);
  }

  setNext(next) {
    this.next = next;
  }
}
const middleware = [new WithKey(), new RetryHandler(), new HTTPMessageHandler()];
const client = Client.initWithMiddleware({ middleware, baseUrl: BASE });

const steps = {
  async pages() {
    const subjects = [];
    const page = await client.api("/me/messages").top(90).get();
    const iterator = new PageIterator(client, page, (message) => subjects.push(message.subject) > 0);
    await iterator.iterate();
    return { messages: subjects.length, last: subjects.at(-1) };
  },
  async mail() {
    const toRecipients = [{ emailAddress: { address: "bob@fabrikam.example" } }];
    const body = { contentType: "text", content: "Hello" };
    await client.api("/me/sendMail").post({ message: { subject: "By the relay", body, toRecipients } });
    return { sent: true };
  },
  async upload() {
    const AttachmentItem = { attachmentType: "file", name: "big.bin", size: SIZE };
    const session = await LargeFileUploadTask.createUploadSession(
      client, "/me/messages/AAMkAGI0001=/attachments/createUploadSession", { AttachmentItem });
    const content = randomBytes(SIZE);
    const file = new FileUpload(new Blob([content]), "big.bin", SIZE);
    const task = new LargeFileUploadTask(client, file, session, { rangeSize: 4 * 1024 * 1024 });
    await task.upload();
    const sha256 = createHash("sha256").update(content).digest("hex");
    return { inside: session.url.startsWith(BASE), bytes: SIZE, sha256 };
  },
  async batch() {
    const request = (id, path) => ({ id, request: new Request(`${BASE}/v1.0${path}`, { method: "GET" }) });
    const content = new BatchRequestContent([request("1", "/me/messages"), request("2", "/me/contacts")]);
    const answer = new BatchResponseContent(await client.api("/$batch").post(await content.getContent()));
    return { statuses: ["1", "2"].map((id) => answer.getResponseById(id).status) };
  },
  async first() {
    return { messages: (await client.api("/me/messages").get()).value.length };
  },
};

for (const step of STEPS) {
  let outcome;
  try {
    outcome = await steps[step]();
  } catch (error) {
    outcome = { error: `${error.name}: ${error.message}` };
  }
  console.log(JSON.stringify({ step, ...outcome }));
}
