// A receiver of tokenward's webhooks: verifies with the package `standardwebhooks`, and prints what it took.
// Usage: node receiver.mjs PORT SECRET_FILE
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const [port, file] = process.argv.slice(2);
const webhook = new Webhook(readFileSync(file, "utf8").trim());

createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts).toString("utf8");
  try {
    const event = webhook.verify(body, request.headers);
    console.log(event.type, event.data.connection ?? "");
    response.writeHead(204).end();
  } catch (error) {
    console.log("refused", error.message);
    response.writeHead(401).end();
  }
}).listen(Number(port), "127.0.0.1");
