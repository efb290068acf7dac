// A real OpenID provider for the tests: oidc-provider on 127.0.0.1, as its authors ship it, with rotation of refresh
// tokens (a used one kills its grant), PKCE for everyone, access tokens of three seconds (or TOKEN_LIFE), and nobody
// at the keyboard: each sign-in and each consent is given at once.
//
// Prints {"issuer", "port"} when it answers, and ends when its standard input does. The endpoints lie under /oauth2,
// so that nobody finds them by guessing. A client may be given by the environment (CLIENT_ID, CLIENT_SECRET,
// REDIRECT_URI), and a line "revoke NAME" on standard input ends that user's grants. Knobs, bodies and answers in JSON:
//   POST /_test/clients        a client's metadata; `certificate` (PEM) becomes its jwks
//   POST /_test/sign-in-as     {"account"}: who is at the keyboard
//   POST /_test/token-life     {"seconds"}: access tokens from now on live this long
//   POST /_test/clock          {"seconds"}: so much time passes, at once
//   POST /_test/token-delay    {"milliseconds"}: every token request waits this long
//   POST /_test/lose-answer    the next token request is processed whole, and then its connection is cut
//   POST /_test/revoke-grants  what an operator of the provider does: every grant is gone
//   GET  /_test/events         what happened, oldest first
// Needs: npm install oidc-provider, beside the working directory or beside this file.

import { createPrivateKey, generateKeyPairSync, X509Certificate } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

// The clock that everything here goes by: the machine's, and so much ahead of it as a test said.
let ahead = 0;
const Machine = Date;
globalThis.Date = class extends Machine {
  constructor(...when) {
    super(...(when.length === 0 ? [Machine.now() + ahead] : when));
  }

  static now() {
    return Machine.now() + ahead;
  }
};

const here = createRequire(`${process.cwd()}/`);
const { Provider } = await import(pathToFileURL(here.resolve("oidc-provider")).href);

// Everything the provider keeps: `${model}:${id}` → payload, with the time until when.
const kept = new Map();

class Adapter {
  constructor(model) {
    this.model = model;
  }

  async upsert(id, payload, expiresIn) {
    kept.set(`${this.model}:${id}`, { payload, until: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
  }

  async find(id) {
    const entry = kept.get(`${this.model}:${id}`);
    return entry && entry.until > Date.now() ? entry.payload : undefined;
  }

  async findBy(member, value) {
    for (const [key, { payload }] of kept) {
      if (key.startsWith(`${this.model}:`) && payload[member] === value) return payload;
    }
    return undefined;
  }

  findByUid(uid) {
    return this.findBy("uid", uid);
  }

  findByUserCode(userCode) {
    return this.findBy("userCode", userCode);
  }

  async consume(id) {
    kept.get(`${this.model}:${id}`).payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    kept.delete(`${this.model}:${id}`);
  }

  async revokeByGrantId(grantId) {
    for (const [key, { payload }] of kept) {
      if (key.startsWith(`${this.model}:`) && payload.grantId === grantId) kept.delete(key);
    }
  }
}

const events = [];
let account = "alice";
let tokenLife = Number(process.env.TOKEN_LIFE ?? 3);
let tokenDelay = 0;
let loseAnswer = false;

// By way of PEM: Node 20 may wait for itself for ever in the export of a key object that it has just generated.
const { privateKey: pem } = generateKeyPairSync("rsa", {
  modulusLength: 2048,
  publicKeyEncoding: { type: "spki", format: "pem" },
  privateKeyEncoding: { type: "pkcs8", format: "pem" },
});
const privateKey = createPrivateKey(pem);
const server = createServer();
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const { port } = server.address();
const issuer = `http://127.0.0.1:${port}`;

const provider = new Provider(issuer, {
  adapter: Adapter,
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), use: "sig", alg: "RS256", kid: "first" }] },
  cookies: { keys: ["a key of the tests"] },
  clientAuthMethods: (process.env.CLIENT_AUTH_METHODS ?? "client_secret_basic,client_secret_post,private_key_jwt").split(","),
  scopes: ["openid", "offline_access", "mail"],
  pkce: { required: () => true },
  rotateRefreshToken: true,
  responseTypes: ["code"],
  features: { devInteractions: { enabled: false }, revocation: { enabled: true } },
  interactions: { url: (_, interaction) => `${issuer}/oauth2/interaction/${interaction.uid}` },
  findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
  routes: {
    authorization: "/oauth2/auth",
    token: "/oauth2/token",
    jwks: "/oauth2/keys",
    userinfo: "/oauth2/me",
    revocation: "/oauth2/revocation",
  },
  ttl: { AccessToken: () => tokenLife, AuthorizationCode: 60, IdToken: 300, Interaction: 600, Session: 86400, Grant: 86400, RefreshToken: 86400 },
});

// How a client proved itself, which is not always as it is registered: the two ways of a secret are one to oidc-provider.
function clientAuth({ headers, oidc }) {
  if (headers.authorization?.startsWith("Basic ")) return "client_secret_basic";
  if (oidc?.body?.client_secret) return "client_secret_post";
  return oidc?.body?.client_assertion ? "private_key_jwt" : undefined;
}

// Never a token: what is asked of whom, and how it ended.
function note(event, ctx, error) {
  const { oidc } = ctx;
  events.push({
    event,
    client: oidc?.client?.clientId,
    client_auth: clientAuth(ctx),
    grant_type: oidc?.params?.grant_type,
    scope: oidc?.params?.scope,
    prompt: oidc?.params?.prompt,
    response_mode: oidc?.params?.response_mode,
    rotations: oidc?.entities?.RefreshToken?.rotations ?? 0,
    error: error?.error,
    detail: error?.error_detail ?? error?.error_description,
  });
}
for (const event of ["authorization.success", "grant.success", "grant.revoked"]) {
  provider.on(event, (ctx) => note(event, ctx));
}
for (const event of ["authorization.error", "grant.error", "discovery.error", "jwks.error", "userinfo.error", "server_error"]) {
  provider.on(event, (ctx, error) => note(event, ctx, error));
}

// Login and consent in one step, with all that was asked for.
async function interact(request, response) {
  const { params } = await provider.interactionDetails(request, response);
  const accountId = params.login_hint ?? account;
  const grant = new provider.Grant({ accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const grantId = await grant.save();
  const result = { login: { accountId }, consent: { grantId } };
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
}

async function body(request) {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text === "" ? {} : JSON.parse(text);
}

const knobs = {
  async "POST /_test/clients"(request) {
    const { certificate, ...metadata } = await body(request);
    if (certificate) {
      metadata.jwks = { keys: [new X509Certificate(certificate).publicKey.export({ format: "jwk" })] };
    }
    await new Adapter("Client").upsert(metadata.client_id, metadata);
    return {};
  },
  async "POST /_test/sign-in-as"(request) {
    ({ account } = await body(request));
    return {};
  },
  async "POST /_test/token-life"(request) {
    tokenLife = (await body(request)).seconds;
    return {};
  },
  async "POST /_test/clock"(request) {
    ahead += (await body(request)).seconds * 1000;
    return {};
  },
  async "POST /_test/token-delay"(request) {
    tokenDelay = (await body(request)).milliseconds;
    return {};
  },
  async "POST /_test/lose-answer"() {
    loseAnswer = true;
    return {};
  },
  async "POST /_test/revoke-grants"() {
    const grants = [...kept.keys()].filter((key) => key.startsWith("Grant:"));
    for (const key of grants) kept.delete(key);
    return { revoked: grants.length };
  },
  async "GET /_test/events"() {
    return { events };
  },
};

const answer = provider.callback();
server.on("request", async (request, response) => {
  response.setHeader("date", new Date().toUTCString());
  try {
    const knob = knobs[`${request.method} ${request.url}`];
    if (knob) {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify(await knob(request)));
      return;
    }
    if (request.url.startsWith("/oauth2/interaction/")) {
      await interact(request, response);
      return;
    }
    if (request.url === "/oauth2/token") {
      if (tokenDelay > 0) await new Promise((over) => setTimeout(over, tokenDelay));
      if (loseAnswer) {
        loseAnswer = false;
        response.end = () => request.socket.destroy();
      }
    }
    await answer(request, response);
  } catch (error) {
    console.error(error);
    response.statusCode = 500;
    response.end(String(error));
  }
});

if (process.env.REDIRECT_URI) {
  await new Adapter("Client").upsert(process.env.CLIENT_ID, {
    client_id: process.env.CLIENT_ID,
    client_secret: process.env.CLIENT_SECRET,
    redirect_uris: [process.env.REDIRECT_URI],
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    scope: "openid offline_access mail",
  });
}

console.log(JSON.stringify({ issuer, port }));
createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [, name] = line.split(" ");
    const theirs = [...kept].filter(([key, { payload }]) => key.startsWith("Grant:") && payload.accountId === name);
    for (const [key] of theirs) kept.delete(key);
    console.log(JSON.stringify({ revoked: theirs.length }));
  })
  .on("close", () => process.exit(0));
