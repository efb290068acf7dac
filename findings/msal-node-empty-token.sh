#!/usr/bin/env bash
# @azure/msal-node 7.2.3, managed identity at App Service: a refusal whose JSON has neither `error` nor `message`, such as an
# RFC 9457 problem document with status 403, is no error. acquireToken resolves with an empty access token.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$folder" @azure/msal-node@7.2.3 >/dev/null
cat >see.mjs <<'JS'
import { createServer } from "node:http";
import { ManagedIdentityApplication } from "@azure/msal-node";

const problem = { type: "about:blank", title: "Forbidden", status: 403, detail: "the user must sign in again" };
const bodies = { "a problem document": problem, "the same with error": { ...problem, error: "forbidden" } };
let body;
const server = createServer((request, response) => {
  response.writeHead(403, { "content-type": "application/problem+json" });
  response.end(JSON.stringify(body));
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
process.env.IDENTITY_ENDPOINT = `http://127.0.0.1:${server.address().port}/msi/token`;
process.env.IDENTITY_HEADER = "key";

const seen = [];
for (const [name, sent] of Object.entries(bodies)) {
  body = sent;
  const outcome = await new ManagedIdentityApplication().acquireToken({ resource: "https://graph.microsoft.com" }).then(
    (result) => `resolved, accessToken ${JSON.stringify(result.accessToken)}`,
    (error) => `rejected, ${error.name}`,
  );
  console.log(`403 with ${name}: ${outcome}`);
  seen.push(outcome);
}
server.close();
process.exit(seen[0] === 'resolved, accessToken ""' && seen[1].startsWith("rejected") ? 0 : 1);
JS
echo "@azure/msal-node $(node -p 'JSON.parse(require("fs").readFileSync("node_modules/@azure/msal-node/package.json")).version')"
node see.mjs
