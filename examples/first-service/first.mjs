// Prints the subjects of a user's newest mails: node first.mjs CONNECTION
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const { TOKENWARD_KEY_FILE, TOKENWARD_URL = "http://127.0.0.1:7070" } = process.env;
const { GRAPH_URL = "https://graph.microsoft.com" } = process.env;

function call(url, bearer, body) {
  const headers = { Authorization: `Bearer ${bearer}`, "Content-Type": "application/json" };
  const post = body ? { method: "POST", body: JSON.stringify(body) } : {};
  return fetch(url, { headers, ...post, signal: AbortSignal.timeout(20_000) });
}

// An access token that works now; `report` says which one Graph refused.
async function token(connection, report) {
  const name = encodeURIComponent(connection);
  const url = `${TOKENWARD_URL}/v1/apps/outlook/connections/${name}/token?connect=1`;
  for (let left = 4; ; left -= 1) {
    const key = readFileSync(TOKENWARD_KEY_FILE, "utf8").trim(); // read anew: it may have been replaced
    const answer = await call(url, key, report);
    const body = await answer.json();
    if (answer.ok) return body.access_token;
    if (![429, 503].includes(answer.status) || left === 0) {
      throw new Error(`${body.code}: ${body.detail}; ${body.connect_url ?? body.hint}`);
    }
    await sleep(1000 * Number(answer.headers.get("Retry-After"))); // nothing is wrong with the connection
  }
}

async function subjects(connection) {
  const url = `${GRAPH_URL}/v1.0/me/messages?$select=subject&$top=5`;
  const bearer = await token(connection);
  let answer = await call(url, bearer);
  if (answer.status === 401) {
    // Revoked before its time: report it once, and use the token that comes.
    const report = { rejected: createHash("sha256").update(bearer).digest("hex") };
    const claims = answer.headers.get("WWW-Authenticate")?.match(/claims="([^"]+)"/);
    if (claims) report.claims = claims[1];
    answer = await call(url, await token(connection, report));
  }
  if (!answer.ok) throw new Error(`Microsoft Graph answers ${answer.status}`);
  return (await answer.json()).value.map((message) => message.subject);
}

if (process.argv.length !== 3 || !TOKENWARD_KEY_FILE) {
  console.error("usage: TOKENWARD_KEY_FILE=FILE node first.mjs CONNECTION");
  process.exit(2);
}
try {
  console.log((await subjects(process.argv[2])).join("\n"));
} catch (error) {
  console.error(error.cause?.message ?? error.message); // the cause of "fetch failed" says which
  process.exit(1);
}
