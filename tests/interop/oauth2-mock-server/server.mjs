// oauth2-mock-server on 127.0.0.1, as it comes, with a key of RS256. It knows no user, no consent and no secret: every
// request is granted at once.
//
// Prints {"issuer"} when it answers, and ends when its standard input does.
// Needs: npm install oauth2-mock-server, beside the working directory.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const here = createRequire(`${process.cwd()}/`);
const { OAuth2Server } = await import(pathToFileURL(here.resolve("oauth2-mock-server")).href);

const server = new OAuth2Server();
await server.issuer.keys.generate("RS256");
await server.start(0, "127.0.0.1");
server.issuer.url = `http://127.0.0.1:${server.address().port}`;

console.log(JSON.stringify({ issuer: server.issuer.url }));
process.stdin.on("end", () => process.exit(0)).resume();
