//! Discovery: the OpenID configuration, the keys, and the two lookups that SDKs make first.

use serde_json::{Map, Value, json};

use crate::directory::{PERSONAL_TENANT, TenantPath};
use crate::errors::AadError;
use crate::faults::Fault;
use crate::message::{Answer, Request};
use crate::state::State;

impl State {
    /// `/{tenant}/v2.0/.well-known/openid-configuration`
    pub(crate) fn openid_configuration(&self, request: &Request, tenant: &str, faults: &[Fault]) -> Answer {
        let path = match self.known_tenant(tenant) {
            Ok(path) => path,
            Err(error) => return self.failure(&error, request),
        };
        // Work endpoints answer with the id even if asked by domain; the words answer as themselves.
        let segment = match &path {
            TenantPath::Consumers => "consumers",
            other => other.canonical(),
        };
        let issuer = match &path {
            TenantPath::Common | TenantPath::Organizations => self.issuer("{tenantid}"),
            TenantPath::Consumers => self.issuer(PERSONAL_TENANT),
            TenantPath::Tenant(id) => self.issuer(id),
        };
        let region = if matches!(path, TenantPath::Tenant(_)) { json!("NA") } else { Value::Null };
        let at = format!("{}/{segment}", self.base);
        let appid = request.query.get("appid").map(|id| format!("?appid={id}")).unwrap_or_default();
        let document = json!({
            "token_endpoint": format!("{at}/oauth2/v2.0/token"),
            "token_endpoint_auth_methods_supported":
                ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "jwks_uri": format!("{at}/discovery/v2.0/keys{appid}"),
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": issuer,
            "request_uri_parameter_supported": false,
            "userinfo_endpoint": format!("{}/oidc/userinfo", self.base),
            "authorization_endpoint": format!("{at}/oauth2/v2.0/authorize"),
            "device_authorization_endpoint": format!("{at}/oauth2/v2.0/devicecode"),
            "http_logout_supported": true,
            "frontchannel_logout_supported": true,
            "end_session_endpoint": format!("{at}/oauth2/v2.0/logout"),
            "claims_supported": [
                "sub", "iss", "cloud_instance_name", "cloud_instance_host_name", "cloud_graph_host_name",
                "msgraph_host", "aud", "exp", "iat", "auth_time", "acr", "nonce", "preferred_username",
                "name",
                "tid", "ver", "at_hash", "c_hash", "email",
            ],
            "kerberos_endpoint": format!("{at}/kerberos"),
            "tenant_region_scope": region,
            "cloud_instance_name": "microsoftonline.com",
            "cloud_graph_host_name": "graph.windows.net",
            "msgraph_host": "graph.microsoft.com",
            "rbac_url": "https://pas.windows.net",
        });
        patched(Answer::json(200, document), faults, |fault| match fault {
            Fault::DiscoveryPatch(patch) => Some(patch),
            _ => None,
        })
    }

    /// `/{tenant}/discovery/v2.0/keys`
    pub(crate) fn jwks(&self, request: &Request, tenant: &str, faults: &[Fault]) -> Answer {
        match self.known_tenant(tenant) {
            Ok(path) => {
                let document = self.keys.document(&self.base, path.canonical());
                patched(Answer::json(200, Value::Object(document)), faults, |fault| match fault {
                    Fault::JwksPatch(patch) => Some(patch),
                    _ => None,
                })
            }
            Err(error) => self.failure(&error, request),
        }
    }

    /// `/common/discovery/instance`: which hosts are one cloud. This emulator is a cloud of one host.
    pub(crate) fn instance_discovery(&self, request: &Request) -> Answer {
        let Some(endpoint) = request.query.get("authorization_endpoint") else {
            return self.failure(
                &AadError::because(
                    900144,
                    "The request must contain the following parameter: 'authorization_endpoint'.",
                ),
                request,
            );
        };
        let host = self.base.split("://").nth(1).unwrap_or_default();
        let (asked, tenant) = endpoint
            .split_once("://")
            .map(|(_, rest)| rest)
            .and_then(|rest| rest.split_once('/'))
            .map(|(host, path)| (host, path.split('/').next().unwrap_or("common")))
            .unwrap_or_default();
        if !asked.eq_ignore_ascii_case(host) {
            return self.failure(&AadError::new(50049), request);
        }
        Answer::json(
            200,
            json!({
                "tenant_discovery_endpoint":
                    format!("{}/{tenant}/v2.0/.well-known/openid-configuration", self.base),
                "api-version": "1.1",
                "metadata": [{ "preferred_network": host, "preferred_cache": host, "aliases": [host] }],
            }),
        )
    }

    /// `/common/userrealm/{upn}`: whether an account's domain is managed here.
    pub(crate) fn user_realm(&self, upn: &str) -> Answer {
        let domain = upn.rsplit_once('@').map_or("", |(_, domain)| domain);
        let kind = if self.directory.account(upn).is_some() { "Managed" } else { "Unknown" };
        Answer::json(
            200,
            json!({
                "ver": "1.0", "account_type": kind, "domain_name": domain,
                "cloud_instance_name": "microsoftonline.com",
                "cloud_audience_urn": "urn:federation:MicrosoftOnline",
            }),
        )
    }

    /// A failure outside the token endpoint, in the same body.
    pub(crate) fn failure(&self, error: &AadError, request: &Request) -> Answer {
        Answer::failure(error, &request.ids, self.clock.now(), &self.base)
    }
}

fn patched<'a>(
    mut answer: Answer,
    faults: &'a [Fault],
    patch_of: impl Fn(&'a Fault) -> Option<&'a Map<String, Value>>,
) -> Answer {
    for patch in faults.iter().filter_map(patch_of) {
        answer = answer.patch(patch);
    }
    answer
}
