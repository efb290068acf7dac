// @azure/identity, @azure/msal-node and both Graph SDKs for JavaScript ask the managed-identity endpoint of tokenward,
// unmodified.
//
// The clients read IDENTITY_ENDPOINT and IDENTITY_HEADER from the environment by themselves. The one argument is a JSON
// list of jobs; each prints one line of JSON. A job is {"with": CLIENT, "client_id"?, "scope"?}:
// - "@azure/identity", "@azure/msal-node": {"token", "expires_on"} or {"error": what the client shows its user}.
// - "microsoft-graph-client", "msgraph-sdk": that Graph SDK over @azure/identity lists messages at GRAPH_URL:
//   {"subjects"} or {"error"}.
// It runs in the folder with node_modules.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.cwd()}/`);
/** Imports a package of the working directory: some of them are ES modules only. */
const load = (name) => import(pathToFileURL(require.resolve(name)));

const DEFAULT = "https://graph.microsoft.com/.default";
const GRAPH = process.env.GRAPH_URL;

async function credentialOf(job) {
  const { ManagedIdentityCredential } = await load("@azure/identity");
  return job.client_id ? new ManagedIdentityCredential({ clientId: job.client_id }) : new ManagedIdentityCredential();
}

async function identity(job) {
  const token = await (await credentialOf(job)).getToken(job.scope ?? DEFAULT);
  return { token: token.token, expires_on: token.expiresOnTimestamp / 1000 };
}

async function msalNode(job) {
  const { ManagedIdentityApplication } = await load("@azure/msal-node");
  const managedIdentityIdParams = job.client_id ? { userAssignedClientId: job.client_id } : undefined;
  const application = new ManagedIdentityApplication({ managedIdentityIdParams });
  const result = await application.acquireToken({ resource: job.scope ?? DEFAULT });
  return { token: result.accessToken, expires_on: result.expiresOn.getTime() / 1000 };
}

async function graphClient(job) {
  const { Client } = await load("@microsoft/microsoft-graph-client");
  const provider = "@microsoft/microsoft-graph-client/authProviders/azureTokenCredentials/index.js";
  const { TokenCredentialAuthenticationProvider } = await load(provider);
  const client = Client.initWithMiddleware({
    authProvider: new TokenCredentialAuthenticationProvider(await credentialOf(job), { scopes: [DEFAULT] }),
    baseUrl: GRAPH,
    // Without this it sends no token anywhere but to Microsoft's hosts, and says nothing.
    customHosts: new Set([new URL(GRAPH).hostname]),
  });
  const page = await client.api("/me/messages").get();
  return { subjects: page.value.map((message) => message.subject) };
}

async function graphSdk(job) {
  const { AzureIdentityAuthenticationProvider } = await load("@microsoft/kiota-authentication-azure");
  const { createGraphServiceClient, GraphRequestAdapter } = await load("@microsoft/msgraph-sdk");
  await load("@microsoft/msgraph-sdk-users");
  const hosts = new Set([new URL(GRAPH).hostname]);
  const provider = new AzureIdentityAuthenticationProvider(
    await credentialOf(job), [DEFAULT], undefined, hosts, undefined);
  const adapter = new GraphRequestAdapter(provider);
  adapter.baseUrl = `${GRAPH}/v1.0`;
  const page = await createGraphServiceClient(adapter).me.messages.get();
  return { subjects: page.value.map((message) => message.subject) };
}

const CLIENTS = {
  "@azure/identity": identity,
  "@azure/msal-node": msalNode,
  "microsoft-graph-client": graphClient,
  "msgraph-sdk": graphSdk,
};

for (const job of JSON.parse(process.argv[2])) {
  let outcome;
  try {
    outcome = await CLIENTS[job.with](job);
  } catch (error) {
    outcome = { error: `${error.name}: ${error.message}` };
  }
  console.log(JSON.stringify(outcome));
}
