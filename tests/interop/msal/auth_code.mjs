// MSAL for Node against the emulator: code with PKCE, silent refresh, client credentials, certificate.
//
// Environment: EMU_BASE_URL (https), EMU_CLIENT_ID, EMU_CLIENT_SECRET, EMU_CERT_FILE and EMU_KEY_FILE (PEM), and
// NODE_EXTRA_CA_CERTS set to the emulator's CA file, which Node reads at its own start; optional EMU_TENANT
// (contoso.example), EMU_REDIRECT_URI (http://localhost/callback) and EMU_CACHE_FILE, which gets MSAL's cache.
// Prints one line per proved step and exits 0 if all of them hold. Needs: npm install @azure/msal-node

import { createHash, X509Certificate } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

// Finds the package beside the working directory as well as beside this file.
const require = createRequire(`${process.cwd()}/`);
const { ConfidentialClientApplication, CryptoProvider } = require("@azure/msal-node");

const BASE = process.env.EMU_BASE_URL;
const CLIENT = process.env.EMU_CLIENT_ID;
const SECRET = process.env.EMU_CLIENT_SECRET;
const CERT = process.env.EMU_CERT_FILE;
const KEY = process.env.EMU_KEY_FILE;
const TENANT = process.env.EMU_TENANT ?? "contoso.example";
const REDIRECT = process.env.EMU_REDIRECT_URI ?? "http://localhost/callback";
const CACHE = process.env.EMU_CACHE_FILE;
const SCOPES = ["User.Read", "Mail.Read"];
const DEFAULT = ["https://graph.microsoft.com/.default"];

function application(tenant, credential) {
  // The emulator is no host that Microsoft knows, so MSAL must be told to trust it as an authority.
  return new ConfidentialClientApplication({
    auth: {
      clientId: CLIENT,
      authority: `${BASE}/${tenant}`,
      knownAuthorities: [new URL(BASE).host],
      ...credential,
    },
  });
}

function must(condition, what) {
  if (!condition) {
    console.error(`failed: ${what}`);
    process.exit(1);
  }
  console.log(`ok: ${what}`);
}

async function signIn(app) {
  const { verifier, challenge } = await new CryptoProvider().generatePkceCodes();
  const url = await app.getAuthCodeUrl({
    scopes: SCOPES,
    redirectUri: REDIRECT,
    codeChallenge: challenge,
    codeChallengeMethod: "S256",
  });
  const reply = await fetch(url, { redirect: "manual" });
  const code = new URL(reply.headers.get("location")).searchParams.get("code");
  return app.acquireTokenByCode({ code, scopes: SCOPES, redirectUri: REDIRECT, codeVerifier: verifier });
}

let app;
let result;
for (const tenant of ["common", "organizations", TENANT]) {
  app = application(tenant, { clientSecret: SECRET });
  result = await signIn(app);
  must(result.accessToken, `signed ${result.account.username} in at ${tenant} with a code and PKCE`);
}

if (CACHE) writeFileSync(CACHE, app.getTokenCache().serialize());

const cached = await app.acquireTokenSilent({ account: result.account, scopes: SCOPES });
must(cached.fromCache && cached.accessToken === result.accessToken, "the token came from the cache");
const fresh = await app.acquireTokenSilent({ account: result.account, scopes: SCOPES, forceRefresh: true });
must(!fresh.fromCache && fresh.accessToken !== result.accessToken, "refreshed silently");

const me = await fetch(`${BASE}/v1.0/me`, { headers: { authorization: `Bearer ${fresh.accessToken}` } });
must(me.ok, `Graph says ${(await me.json()).userPrincipalName}`);

const secret = await application(TENANT, { clientSecret: SECRET }).acquireTokenByClientCredential({ scopes: DEFAULT });
must(secret.accessToken, "client credentials with the secret");

const certificate = readFileSync(CERT, "ascii");
const registered = await fetch(`${BASE}/_emulator/apps/${CLIENT}/certificates`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ certificates: [certificate] }),
});
must(registered.ok, "the certificate is registered");
const clientCertificate = {
  thumbprintSha256: createHash("sha256").update(new X509Certificate(certificate).raw).digest("hex"),
  privateKey: readFileSync(KEY, "ascii"),
};
const certified = await application(TENANT, { clientCertificate }).acquireTokenByClientCredential({ scopes: DEFAULT });
must(certified.accessToken, "client credentials with the certificate");
result = await signIn(application("common", { clientCertificate }));
must(result.accessToken, "a code redeemed with the certificate");
