//! Which header fields pass, in each direction.

use http::header::{self, HeaderMap, HeaderName};

/// Fields of one connection (RFC 9110 §7.6.1), and those that frame a message or change its protocol.
const OF_CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Fields of a request that say who asks, by which way, as which method or for which path; and what the relay
/// says itself. Gateways write some of them for what is behind them, which believes them.
const OF_CALLER: [&str; 40] = [
    "authorization",
    "cookie",
    "cookie2",
    "x-identity-header",
    "secret",
    "x-vault-token",
    "x-vault-request",
    "host",
    "expect",
    "accept-encoding",
    "via",
    "forwarded",
    "x-real-ip",
    "true-client-ip",
    "x-true-client-ip",
    "x-client-ip",
    "client-ip",
    "x-cluster-client-ip",
    "fastly-client-ip",
    "x-host",
    "x-forwarded",
    "x-remote-user",
    "remote-user",
    "x-authenticated-user",
    "x-webauth-user",
    "x-user",
    "x-access-token",
    "x-id-token",
    "x-ms-client-principal",
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-method",
    "x-http-path-override",
    "x-rewrite-url",
    "x-url-scheme",
    "front-end-https",
];
/// How further fields of a caller begin.
const OF_CALLER_BEGIN: [&str; 15] = [
    "proxy-",
    "x-forwarded-",
    "x-original-",
    "x-rewrite-",
    "cf-",
    "x-arr-",
    "x-azure-",
    "x-ms-client-principal-",
    "x-ms-token-",
    "x-ssl-",
    "ssl-client-",
    "x-client-cert-",
    "x-envoy-",
    "x-auth-request-",
    "x-amzn-oidc-",
];

/// Fields of an answer that are for the resource's own clients: cookies, and what a client keeps for a host.
const OF_RESOURCE: [&str; 6] = [
    "set-cookie",
    "set-cookie2",
    "alt-svc",
    "strict-transport-security",
    "public-key-pins",
    "clear-site-data",
];

/// Returns true if a request's field of this name may reach the resource, also within a batch. Any case.
pub(super) fn may_reach_resource(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // (Some servers read `_` as `-`.)
    let name = name.replace('_', "-");
    let is = |names: &[&str]| names.contains(&name.as_str());
    !is(&OF_CONNECTION) && !is(&OF_CALLER) && !OF_CALLER_BEGIN.iter().any(|begin| name.starts_with(begin))
}

/// Returns the fields of a request that reach the resource.
pub fn for_resource(fields: &HeaderMap) -> HeaderMap {
    let named = named_in_connection(fields);
    let passes = |name: &HeaderName| may_reach_resource(name.as_str()) && !named.contains(name);
    passed(fields, passes)
}

/// Returns the fields of an answer that reach the caller.
pub fn for_caller(fields: &HeaderMap) -> HeaderMap {
    let named = named_in_connection(fields);
    let passes = |name: &HeaderName| {
        let is = |names: &[&str]| names.contains(&name.as_str());
        !is(&OF_CONNECTION) && !is(&OF_RESOURCE) && !named.contains(name)
    };
    passed(fields, passes)
}

fn passed(fields: &HeaderMap, passes: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let passed = fields.iter().filter(|(name, _)| passes(name));
    let mut kept = HeaderMap::with_capacity(fields.len());
    for (name, value) in passed {
        kept.append(name.clone(), value.clone());
    }
    kept
}

/// The fields that `Connection` names: they are of this connection alone.
fn named_in_connection(fields: &HeaderMap) -> Vec<HeaderName> {
    let values = fields.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fields(names: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in names {
            fields.append(*name, HeaderValue::from_static(value));
        }
        fields
    }

    fn names(fields: &HeaderMap) -> Vec<&str> {
        fields.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn nothing_of_the_caller_and_of_its_connection_reaches_the_resource() {
        let sent = fields(&[
            ("accept", "application/json"),
            ("prefer", "odata.maxpagesize=10"),
            ("prefer", "outlook.timezone=\"UTC\""),
            ("content-type", "application/json"),
            ("content-range", "bytes 0-1/2"),
            ("if-match", "\"x\""),
            ("connection", "close, X-Of-Connection"),
            ("x-of-connection", "1"),
            ("authorization", "Bearer twk_x"),
            ("cookie", "a=b"),
            ("x-identity-header", "x"),
            ("x-vault-token", "x"),
            ("host", "tokenward"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("accept-encoding", "gzip"),
            ("content-length", "7"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("proxy-anything", "x"),
            ("forwarded", "for=1"),
            ("x-forwarded-for", "1"),
            ("x-forwarded-host", "evil"),
            ("x_forwarded_host", "evil"),
            ("x-http-method-override", "DELETE"),
            ("x-http-method", "DELETE"),
            ("x_http_method_override", "DELETE"),
            ("x-method-override", "DELETE"),
            ("x-original-url", "/v1.0/me/contacts"),
            ("x-rewrite-url", "/v1.0/me/contacts"),
            ("x-http-path-override", "/v1.0/me/contacts"),
            ("cf-connecting-ip", "1"),
            ("x-arr-clientcert", "MII"),
            ("x-arr-ssl", "2048"),
            ("x-ms-client-principal", "e30="),
            ("x-ms-client-principal-name", "root"),
            ("x_ms_client_principal_id", "1"),
            ("x-ms-token-aad-access-token", "x"),
            ("x-remote-user", "root"),
            ("remote_user", "root"),
            ("client-cert", ":MII:"),
            ("x-ssl-client-cert", "MII"),
            ("x-azure-clientip", "1"),
            ("x-forwarded", "for=1"),
            ("x-amzn-oidc-data", "x"),
            // What SDKs and Exchange's own clients send.
            ("client-request-id", "1"),
            ("sdkversion", "graph-js/3"),
            ("consistencylevel", "eventual"),
            ("x-anchormailbox", "a@b.example"),
            ("x-ms-client-request-id", "1"),
        ]);
        assert_eq!(
            names(&for_resource(&sent)),
            [
                "accept",
                "prefer",
                "prefer",
                "content-type",
                "content-range",
                "if-match",
                "client-request-id",
                "sdkversion",
                "consistencylevel",
                "x-anchormailbox",
                "x-ms-client-request-id"
            ]
        );
    }

    #[test]
    fn no_cookie_and_no_framing_reaches_the_caller() {
        let answered = fields(&[
            ("content-type", "application/json"),
            ("retry-after", "7"),
            ("www-authenticate", "Bearer realm=\"\""),
            ("request-id", "1"),
            ("location", "https://graph.microsoft.com/v1.0/me"),
            ("set-cookie", "a=b"),
            ("connection", "keep-alive, x-of-connection"),
            ("x-of-connection", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
            ("strict-transport-security", "max-age=1"),
            ("alt-svc", "h3=\":443\""),
        ]);
        assert_eq!(
            names(&for_caller(&answered)),
            ["content-type", "retry-after", "www-authenticate", "request-id", "location"]
        );
    }
}
