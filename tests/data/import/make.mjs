// Makes the fixtures of other systems that Node programs write. Nothing in them is real.
//
//     npm install --prefix node @azure/msal-node@3
//     NODE_PATH=node/node_modules node tests/data/import/make.mjs
import { createCipheriv, randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(join(process.env.NODE_PATH, "x.js"));
const here = dirname(fileURLToPath(import.meta.url));
const client = "11111111-2222-3333-4444-555555555555";
const tenant = "34e60b8e-a5b5-43c9-a67e-a85b7dd8768b";
const oid = "503c2116-3318-4ef4-9137-98e7501a0886";
const encoded = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

const authority = `https://login.microsoftonline.com/${tenant}`;
const documents = {
    token_endpoint: `${authority}/oauth2/v2.0/token`,
    authorization_endpoint: `${authority}/oauth2/v2.0/authorize`,
    issuer: `${authority}/v2.0`,
    jwks_uri: `${authority}/discovery/v2.0/keys`,
};
const claims = {
    iss: `${authority}/v2.0`, aud: client, sub: "sub-alice", tid: tenant, oid, ver: "2.0",
    preferred_username: "alice@contoso.com", exp: 4102444800, iat: 1764500000,
};
const tokens = {
    token_type: "Bearer", scope: "openid profile Mail.Read", expires_in: 3600, access_token: "access-of-alice",
    refresh_token: "refresh-of-alice", id_token: `${encoded({ alg: "none" })}.${encoded(claims)}.x`,
    client_info: encoded({ uid: oid, utid: tenant }),
};
const answered = (body) => ({ status: 200, headers: {}, body });
const { ConfidentialClientApplication } = require("@azure/msal-node");
const app = new ConfidentialClientApplication({
    auth: { clientId: client, clientSecret: "secret", authority, knownAuthorities: ["login.microsoftonline.com"] },
    system: {
        networkClient: {
            sendGetRequestAsync: async () => answered(documents),
            sendPostRequestAsync: async () => answered(tokens),
        },
    },
});
await app.acquireTokenByCode({ code: "code", scopes: ["Mail.Read"], redirectUri: "http://localhost" });
writeFileSync(join(here, "msal-node.json"), app.getTokenCache().serialize() + "\n");

// As Nango encrypts a connection's credentials for its table (its package is in no registry): AES-256-GCM with
// NANGO_ENCRYPTION_KEY; ciphertext, initialization vector and tag apart, each in base64.
const key = Buffer.alloc(32, 7).toString("base64");
const encrypt = (text) => {
    const iv = randomBytes(12);
    const cipher = createCipheriv("aes-256-gcm", Buffer.from(key, "base64"), iv);
    const sealed = cipher.update(text, "utf8", "base64") + cipher.final("base64");
    return [sealed, iv.toString("base64"), cipher.getAuthTag().toString("base64")];
};
const credentials = {
    type: "OAUTH2", access_token: "access-of-alice", refresh_token: "refresh-of-alice", expires_at: "2026-11-30T00:00:00Z",
    raw: { id_token: tokens.id_token, refresh_token: "refresh-of-alice" },
};
const row = (id, more) => ({ id, connection_id: `user-${id}`, provider_config_key: "outlook-prod", ...more });
const [sealed, iv, tag] = encrypt(JSON.stringify(credentials));
const rows = [
    row(1, { credentials: { encrypted_credentials: sealed }, credentials_iv: iv, credentials_tag: tag, deleted_at: null }),
    row(2, { credentials: { encrypted_credentials: sealed }, credentials_iv: iv, credentials_tag: tag, deleted_at: "2026-01-01" }),
    // As its API answers.
    row(3, { provider: "microsoft", credentials, created_at: "2026-11-23T00:00:00Z", metadata: {} }),
    row(4, { provider: "github-pat", credentials: { type: "API_KEY", apiKey: "canary" } }),
];
writeFileSync(join(here, "nango.jsonl"), rows.map((one) => JSON.stringify(one)).join("\n") + "\n");
writeFileSync(join(here, "nango.key"), key + "\n");
