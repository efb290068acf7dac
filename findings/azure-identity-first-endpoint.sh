#!/usr/bin/env bash
# @azure/identity 4.13.1: IDENTITY_ENDPOINT is read once in a process. After it has changed, a new ManagedIdentityCredential
# still gives the token of the first endpoint, from the cache.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$folder" @azure/identity@4.13.1 >/dev/null
cat >see.mjs <<'JS'
import { createServer } from "node:http";
import { ManagedIdentityCredential } from "@azure/identity";

const serve = async (user) => {
  const server = createServer((request, response) => {
    const expires_on = String(Math.floor(Date.now() / 1000) + 3600);
    const body = { access_token: `token of ${user}`, expires_on, resource: "https://graph.microsoft.com", token_type: "Bearer" };
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return `http://127.0.0.1:${server.address().port}/token`;
};
process.env.IDENTITY_HEADER = "key";
const seen = [];
for (const user of ["alice", "bob"]) {
  process.env.IDENTITY_ENDPOINT = await serve(user);
  const { token } = await new ManagedIdentityCredential().getToken("https://graph.microsoft.com/.default");
  console.log(`IDENTITY_ENDPOINT of ${user}, a new credential: ${token}`);
  seen.push(token);
}
process.exit(seen[0] === "token of alice" && seen[1] === "token of alice" ? 0 : 1);
JS
echo "@azure/identity $(node -p 'JSON.parse(require("fs").readFileSync("node_modules/@azure/identity/package.json")).version')"
node see.mjs
