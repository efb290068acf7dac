// A client typed by what openapi-typescript made gets a token, and reads a refusal as a problem.

import createClient from "openapi-fetch";
import type { paths } from "./local.js";
// The other document is compiled, too.
import type { paths as adminPaths } from "./admin.js";

declare const process: { env: Record<string, string> };
declare const console: { log(line: string): void };

type Overview = adminPaths["/admin/v1/status"]["get"]["responses"][200]["content"]["application/json"];
const _version = (overview: Overview): string => overview.version;

const client = createClient<paths>({
  baseUrl: process.env.TOKENWARD_URL,
  headers: { Authorization: `Bearer ${process.env.TOKENWARD_KEY}` },
});
const ask = (connection: string) =>
  client.GET("/v1/apps/{app}/connections/{connection}/token", {
    params: { path: { app: "outlook", connection }, query: { scope: "Mail.Read" } },
  });

const { data } = await ask("team-a/user-7");
if (!data) throw new Error("no token");
const token: string = data.access_token;
const { error } = await ask("nobody");
if (!error) throw new Error("no refusal");
const refused: string | undefined = error.code;
console.log(JSON.stringify({ token, account: data.account.username, refused }));
