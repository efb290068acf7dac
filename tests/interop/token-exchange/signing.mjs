// Asks tokenward's token endpoint as oauth4webapi and openid-client do for a client that signs (`private_key_jwt`), and tells
// what their user sees.
//
// Standard input is a list of cases in JSON, each with `package`, `issuer`, `client_id`, `jwk` (the private key), `grant_type`
// and `form`. Standard output is a list of `{"token": …}` or `{"shown": …}`, in the same order. It runs in the folder with
// node_modules.

import { createRequire } from 'node:module'
import { text } from 'node:stream/consumers'
import { pathToFileURL } from 'node:url'

const require = createRequire(`${process.cwd()}/`)
const load = (name) => import(pathToFileURL(require.resolve(name)))
const [oauth, client] = [await load('oauth4webapi'), await load('openid-client')]

// The server of the tests is on this machine, without TLS.
const plain = { [oauth.allowInsecureRequests]: true }

async function keyOf({ jwk }) {
  const key = await crypto.subtle.importKey('jwk', jwk, { name: 'ECDSA', namedCurve: jwk.crv }, false, ['sign'])
  return { key, kid: jwk.kid }
}

async function ofOauth4webapi(asked) {
  const issuer = new URL(asked.issuer)
  const found = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...plain })
  const server = await oauth.processDiscoveryResponse(issuer, found)
  const who = { client_id: asked.client_id }
  const authentication = oauth.PrivateKeyJwt(await keyOf(asked))
  const form = new URLSearchParams(asked.form)
  if (asked.grant_type === 'client_credentials') {
    const answer = await oauth.clientCredentialsGrantRequest(server, who, authentication, form, plain)
    return oauth.processClientCredentialsResponse(server, who, answer)
  }
  const answer = await oauth.genericTokenEndpointRequest(server, who, authentication, asked.grant_type, form, plain)
  return oauth.processGenericTokenEndpointResponse(server, who, answer)
}

async function ofOpenidClient(asked) {
  const options = { algorithm: 'oauth2', execute: [client.allowInsecureRequests] }
  const authentication = client.PrivateKeyJwt(await keyOf(asked))
  const config = await client.discovery(new URL(asked.issuer), asked.client_id, undefined, authentication, options)
  if (asked.grant_type === 'client_credentials') return client.clientCredentialsGrant(config, asked.form)
  return client.genericGrantRequest(config, asked.grant_type, asked.form)
}

async function ask(asked) {
  const ways = { oauth4webapi: ofOauth4webapi, 'openid-client': ofOpenidClient }
  try {
    return { token: await ways[asked.package](asked) }
  } catch (error) {
    return { shown: `${error.name}: ${error.message}`, cause: `${error.error ?? error.cause}` }
  }
}

const answers = []
for (const asked of JSON.parse(await text(process.stdin))) answers.push(await ask(asked))
console.log(JSON.stringify(answers))
