//! The doors through which callers ask for tokens: each wire form, each transport, each way to prove who
//! asks.
//!
//! **A new door is a row of [`DOORS`].** Every caller's ledger and the audit are compared for each of them
//! (`check/audit.rs`). A test fails while a route of the local API that hands tokens out has no row.

use http::Method;
use serde_json::{Value, json};
use tokenward::domain::time::Timestamp;

use crate::access::{Proof, SIGNER};

/// How a request reaches a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Loopback TCP.
    Tcp,
    /// A Unix socket; its other end says who asks.
    Unix,
    /// TLS with the caller's certificate.
    Tls,
}

/// A way to ask for a token.
#[derive(Debug)]
pub struct Door {
    /// Its name here.
    pub name: &'static str,
    /// Who asks.
    pub caller: &'static str,
    /// How it proves who it is.
    pub proof: Proof,
    /// The transport.
    pub over: Over,
    /// The audit's word for the wire form.
    pub word: &'static str,
    /// The row of the API's table.
    pub route: (&'static str, &'static str),
    /// Whose token it is.
    pub whose: Whose,
    /// Whether the answer is a stream: of that the caller takes the first event, and hangs up.
    pub streams: bool,
    ask: fn(&Wanted<'_>) -> Asked,
}

/// Whose tokens a door gives, and whether callers rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A connection's. Every promise holds.
    Connection,
    /// A connection's, through a door that refuses on purpose: only the ledger and the audit are compared.
    Refused,
    /// The app's own: only the ledger and the audit are compared.
    App,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The connection's name.
    pub connection: &'a str,
    /// The token that a resource refused, by its digest.
    pub rejected: Option<&'a str>,
    /// Whether the least `min_ttl` is enough, where the door has one.
    pub short: bool,
    /// The caller's API key or JWT; empty where the transport proves who asks.
    pub secret: &'a str,
}

/// A request as it is sent.
#[derive(Debug)]
pub struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
    /// Whether it reports the rejected token.
    pub(crate) reports: bool,
}

/// An answer, in the words of the native API.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The token.
    pub token: Option<String>,
    /// When the daemon says that it dies, in milliseconds since 1970.
    pub dies: Option<u64>,
    /// The code of a refusal.
    pub code: Option<String>,
}

const NATIVE: (&str, &str) = ("GET", "/v1/apps/{app}/connections/{connection}/token");
const NATIVE_POST: (&str, &str) = ("POST", "/v1/apps/{app}/connections/{connection}/token");
const SHARED: (&str, &str) = ("GET", "/msi/token");
const OF_CONNECTION: (&str, &str) = ("GET", "/v1/apps/{app}/connections/{connection}/msi/token");
const EXCHANGE: (&str, &str) = ("POST", "/oauth2/token");
const CREDS: (&str, &str) = ("GET", "/v1/{mount}/creds/{connection}");
const WATCH: (&str, &str) = ("GET", "/v1/apps/{app}/connections/{connection}/token/watch");
const OF_APP: (&str, &str) = ("GET", "/v1/apps/{app}/token");

/// Every door.
pub const DOORS: &[Door] = &[
    Door { name: "native", caller: "mail-sync", ask: native, ..API_KEY },
    Door { name: "native, POST", caller: "mail-sync", route: NATIVE_POST, ask: native_post, ..API_KEY },
    Door {
        name: "native, Unix peer",
        caller: "neighbour",
        proof: Proof::UnixUser,
        over: Over::Unix,
        ask: native,
        ..API_KEY
    },
    Door {
        name: "native, SPIFFE id",
        caller: "mesh",
        proof: Proof::Spiffe,
        over: Over::Tls,
        ask: native,
        ..API_KEY
    },
    Door {
        name: "native, watched",
        caller: "watcher",
        word: "watch",
        route: WATCH,
        streams: true,
        ask: |wanted| get(path_of(wanted.connection, "/token/watch"), bearer(wanted.secret)),
        ..API_KEY
    },
    Door { name: "native, SAN", caller: "host", proof: Proof::San, over: Over::Tls, ask: native, ..API_KEY },
    Door { name: "native, JWT", caller: "pod", proof: Proof::Jwt, ask: native, ..API_KEY },
    Door {
        name: "managed identity, shared",
        caller: "azure",
        word: "msi",
        route: SHARED,
        ask: |wanted| msi("x-identity-header", "2019-08-01", true, wanted),
        ..API_KEY
    },
    Door {
        name: "managed identity, older header",
        caller: "azure-old",
        word: "msi",
        route: SHARED,
        ask: |wanted| msi("secret", "2017-09-01", true, wanted),
        ..API_KEY
    },
    Door {
        name: "managed identity of a connection",
        caller: "azure",
        word: "msi",
        route: OF_CONNECTION,
        ask: |wanted| msi("x-identity-header", "2025-03-30", false, wanted),
        ..API_KEY
    },
    Door {
        name: "managed identity over a Unix socket",
        caller: "neighbour",
        proof: Proof::UnixUser,
        over: Over::Unix,
        word: "msi",
        route: OF_CONNECTION,
        ask: |wanted| msi("", "2019-08-01", false, wanted),
        ..API_KEY
    },
    Door {
        name: "managed identity of the app",
        caller: "nightly",
        word: "msi",
        route: SHARED,
        whose: Whose::App,
        ask: |wanted| {
            let wanted = Wanted { connection: "", ..*wanted };
            msi("x-identity-header", "2019-08-01", true, &wanted)
        },
        ..API_KEY
    },
    Door {
        name: "exchange, client_secret_basic",
        caller: "oauth-basic",
        word: "oauth2",
        route: EXCHANGE,
        ask: |wanted| exchange(Client::Basic("oauth-basic"), wanted),
        ..API_KEY
    },
    Door {
        name: "exchange, client_secret_post",
        caller: "oauth-post",
        word: "oauth2",
        route: EXCHANGE,
        ask: |wanted| exchange(Client::Post("oauth-post"), wanted),
        ..API_KEY
    },
    Door {
        name: "exchange, client certificate",
        caller: "mesh",
        proof: Proof::Spiffe,
        over: Over::Tls,
        word: "oauth2",
        route: EXCHANGE,
        ask: |wanted| exchange(Client::OfTransport, wanted),
        ..API_KEY
    },
    Door {
        name: "client_credentials, client_secret_post",
        caller: "nightly",
        word: "oauth2",
        route: EXCHANGE,
        whose: Whose::App,
        ask: |wanted| client_credentials(Client::Post("nightly"), wanted),
        ..API_KEY
    },
    Door {
        name: "client_credentials, private_key_jwt",
        caller: SIGNER,
        proof: Proof::ClientAssertion,
        word: "oauth2",
        route: EXCHANGE,
        whose: Whose::App,
        ask: |wanted| client_credentials(Client::Assertion, wanted),
        ..API_KEY
    },
    Door {
        name: "Vault, X-Vault-Token",
        caller: "vault-agent",
        word: "vault",
        route: CREDS,
        ask: |wanted| creds("x-vault-token", wanted.secret.to_owned(), wanted),
        ..API_KEY
    },
    Door {
        name: "Vault, bearer",
        caller: "vault-agent",
        word: "vault",
        route: CREDS,
        ask: |wanted| creds("authorization", format!("Bearer {}", wanted.secret), wanted),
        ..API_KEY
    },
    Door { name: "the app", caller: "nightly", route: OF_APP, whose: Whose::App, ask: of_app, ..API_KEY },
    Door {
        name: "native, no such connection",
        caller: "mail-sync",
        whose: Whose::Refused,
        ask: |wanted| native(&Wanted { connection: "nobody/here", ..*wanted }),
        ..API_KEY
    },
    Door {
        name: "native, a forbidden scope",
        caller: "narrow",
        whose: Whose::Refused,
        ask: |wanted| {
            let asked = native(wanted);
            let path = asked.path.split('?').next().unwrap_or_default().to_owned();
            Asked { path: path + "?scope=Mail.Read", ..asked }
        },
        ..API_KEY
    },
    Door { name: "native, over its rate", caller: "eager", whose: Whose::Refused, ask: native, ..API_KEY },
    Door {
        name: "exchange, what cannot be read",
        caller: "oauth-post",
        word: "oauth2",
        route: EXCHANGE,
        whose: Whose::Refused,
        ask: |wanted| {
            let asked = exchange(Client::Post("oauth-post"), wanted);
            Asked { body: asked.body.replace("subject_token_type=", "subject_token_kind="), ..asked }
        },
        ..API_KEY
    },
    Door {
        name: "native, what cannot be read",
        caller: "mail-sync",
        route: NATIVE_POST,
        whose: Whose::Refused,
        ask: |wanted| Asked { body: "{\"rejected\": 7}".to_owned(), ..native_post(wanted) },
        ..API_KEY
    },
    Door { name: "native, a stranger", caller: "", proof: Proof::Nothing, whose: Whose::Refused, ..API_KEY },
    Door {
        name: "managed identity, a stranger",
        caller: "",
        proof: Proof::Nothing,
        word: "msi",
        route: SHARED,
        whose: Whose::Refused,
        ask: |wanted| msi("x-identity-header", "2019-08-01", true, wanted),
        ..API_KEY
    },
];

/// What most doors are.
const API_KEY: Door = Door {
    name: "",
    caller: "",
    proof: Proof::ApiKey,
    over: Over::Tcp,
    word: "native",
    route: NATIVE,
    whose: Whose::Connection,
    streams: false,
    ask: native,
};

/// The door of this name.
///
/// # Panics
/// When there is none.
pub fn door(name: &str) -> &'static Door {
    DOORS.iter().find(|door| door.name == name).expect("a door of this name")
}

impl Door {
    /// The request for a token.
    pub(crate) fn ask(&self, wanted: &Wanted<'_>) -> Asked {
        (self.ask)(wanted)
    }

    /// The connection that the audit names for a request about this one.
    pub fn connection<'a>(&self, asked: &'a str) -> Option<&'a str> {
        match (self.whose, self.name) {
            (Whose::App, _) | (_, "exchange, what cannot be read") => None,
            _ if self.proof == Proof::Nothing => None,
            (_, "native, no such connection") => Some("nobody/here"),
            _ => Some(asked),
        }
    }

    /// Reads an answer that was there at `ended`.
    pub fn read(&self, status: u16, body: &Value, ended: u64) -> Said {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let instant = |value: &Value| {
            let at = Timestamp::parse_rfc3339(value.as_str()?)?;
            u64::try_from(at.unix_millis()).ok()
        };
        let is_ok = status == 200;
        let (token, dies, code) = match self.word {
            "msi" => {
                let dies = body["expires_on"].as_str().and_then(|text| text.parse::<u64>().ok());
                (&body["access_token"], dies.map(|seconds| seconds * 1000), text(&body["error"]))
            }
            "oauth2" => {
                let dies = body["expires_in"].as_u64().map(|seconds| ended + seconds * 1000);
                (&body["access_token"], dies, text(&body["code"]))
            }
            "vault" => {
                let code = match (status, body["errors"][0].as_str()) {
                    // What is not there has no words.
                    (404, None) => Some("connection_not_found"),
                    (_, Some("permission denied")) => Some("caller_unauthenticated"),
                    (_, Some(words)) => words.split(':').next(),
                    (_, None) => None,
                };
                let data = &body["data"];
                (&data["access_token"], instant(&data["expire_time"]), code.map(str::to_owned))
            }
            _ => (&body["access_token"], instant(&body["expires_at"]), text(&body["code"])),
        };
        Said {
            token: text(token).filter(|_| is_ok),
            dies: dies.filter(|_| is_ok),
            code: code.filter(|_| !is_ok),
        }
    }
}

/// The status that the native API has for a code: each door has its own.
pub fn native_status(status: u16, code: Option<&str>) -> u16 {
    match code {
        Some("connection_not_found" | "app_not_found") => 404,
        Some(
            "reauthorization_required"
            | "connection_blocked"
            | "connection_paused"
            | "scope_not_granted"
            | "tenant_blocked",
        ) => 409,
        Some("caller_forbidden") => 403,
        Some("caller_unauthenticated") => 401,
        _ => status,
    }
}

fn path_of(connection: &str, rest: &str) -> String {
    format!("/v1/apps/outlook/connections/{}{rest}", connection.replace('/', "%2F"))
}

fn get(path: String, headers: Vec<(&'static str, String)>) -> Asked {
    Asked { method: Method::GET, path, headers, body: String::new(), reports: false }
}

fn bearer(secret: &str) -> Vec<(&'static str, String)> {
    if secret.is_empty() { Vec::new() } else { vec![("authorization", format!("Bearer {secret}"))] }
}

fn native(wanted: &Wanted<'_>) -> Asked {
    let query = if wanted.short { "?min_ttl=60" } else { "" };
    match wanted.rejected {
        Some(_) => native_post(wanted),
        None => get(path_of(wanted.connection, &format!("/token{query}")), bearer(wanted.secret)),
    }
}

fn native_post(wanted: &Wanted<'_>) -> Asked {
    let mut headers = bearer(wanted.secret);
    headers.push(("content-type", "application/json".to_owned()));
    let body = match wanted.rejected {
        Some(digest) => json!({ "rejected": digest }),
        None => json!({ "min_ttl": 300 }),
    };
    let path = path_of(wanted.connection, "/token");
    Asked { method: Method::POST, path, headers, body: body.to_string(), reports: wanted.rejected.is_some() }
}

fn msi(header: &'static str, version: &str, shared: bool, wanted: &Wanted<'_>) -> Asked {
    let mut query = format!("resource=https%3A%2F%2Fgraph.microsoft.com&api-version={version}");
    if let Some(digest) = wanted.rejected {
        query += &format!("&token_sha256_to_refresh={digest}");
    }
    let path = match (shared, wanted.connection) {
        (true, "") => format!("/msi/token?{query}&client_id=outlook"),
        (true, name) => format!("/msi/token?{query}&client_id=outlook%3A{}", name.replace('/', "%2F")),
        (false, name) => path_of(name, &format!("/msi/token?{query}")),
    };
    let key = (!header.is_empty()).then(|| (header, wanted.secret.to_owned()));
    Asked { reports: wanted.rejected.is_some(), ..get(path, key.into_iter().collect()) }
}

/// How a client of the token endpoint says who it is.
enum Client {
    Basic(&'static str),
    Post(&'static str),
    Assertion,
    OfTransport,
}

fn exchange(client: Client, wanted: &Wanted<'_>) -> Asked {
    let subject = format!("outlook:{}", wanted.connection);
    let grant = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", &subject),
        ("subject_token_type", "urn:tokenward:params:oauth:token-type:connection"),
    ];
    token_request(client, &grant, wanted.secret)
}

fn client_credentials(client: Client, wanted: &Wanted<'_>) -> Asked {
    token_request(client, &[("grant_type", "client_credentials"), ("audience", "outlook")], wanted.secret)
}

fn token_request(client: Client, grant: &[(&str, &str)], secret: &str) -> Asked {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(grant);
    let mut headers = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
    match client {
        Client::Basic(name) => {
            let encoded = STANDARD.encode(format!("{name}:{secret}"));
            headers.push(("authorization", format!("Basic {encoded}")));
        }
        Client::Post(name) => {
            form.append_pair("client_id", name).append_pair("client_secret", secret);
        }
        Client::Assertion => {
            form.append_pair(
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            )
            .append_pair("client_assertion", secret);
        }
        Client::OfTransport => {}
    }
    Asked {
        method: Method::POST,
        path: "/oauth2/token".to_owned(),
        headers,
        body: form.finish(),
        reports: false,
    }
}

fn creds(header: &'static str, value: String, wanted: &Wanted<'_>) -> Asked {
    let query = if wanted.short { "?minimum_seconds=60" } else { "" };
    get(format!("/v1/outlook/creds/{}{query}", wanted.connection), vec![(header, value)])
}

fn of_app(wanted: &Wanted<'_>) -> Asked {
    get("/v1/apps/outlook/token".to_owned(), bearer(wanted.secret))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_that_hands_a_token_out_is_a_door() {
        let hands_out = |(_, path): &&(&str, &str)| {
            *path != "/v1/auth/token/lookup-self"
                && (path.ends_with("/token") || path.contains("/token/") || path.contains("/creds/"))
        };
        let routes: BTreeSet<_> = tokenward::api::ROUTES.iter().filter(hands_out).copied().collect();
        let doors: BTreeSet<_> = DOORS.iter().map(|door| door.route).collect();
        assert_eq!(routes, doors, "a new route needs a row in DOORS");
        let names: BTreeSet<_> = DOORS.iter().map(|door| door.name).collect();
        assert_eq!(names.len(), DOORS.len(), "a name is a door's own");
    }

    #[test]
    fn each_form_of_an_answer_is_read() {
        let read = |name: &str, status, body: Value| door(name).read(status, &body, 5_000);
        let token = |dies| Said { token: Some("a.b.c".to_owned()), dies: Some(dies), code: None };
        let at = "1970-01-01T00:00:20Z";
        assert_eq!(read("native", 200, json!({ "access_token": "a.b.c", "expires_at": at })), token(20_000));
        let body = json!({ "access_token": "a.b.c", "expires_on": "20" });
        assert_eq!(read("managed identity, shared", 200, body), token(20_000));
        let body = json!({ "access_token": "a.b.c", "expires_in": 15 });
        assert_eq!(read("exchange, client_secret_post", 200, body), token(20_000));
        let body = json!({ "data": { "access_token": "a.b.c", "expire_time": at } });
        assert_eq!(read("Vault, bearer", 200, body), token(20_000));
        for (name, status, body) in [
            ("native", 409, json!({ "code": "connection_paused" })),
            ("managed identity, shared", 403, json!({ "error": "connection_paused", "statusCode": 403 })),
            (
                "exchange, client_secret_basic",
                400,
                json!({ "error": "invalid_grant", "code": "connection_paused" }),
            ),
            (
                "Vault, X-Vault-Token",
                400,
                json!({ "errors": ["connection_paused: an operator paused it; ask"] }),
            ),
        ] {
            let said = read(name, status, body);
            assert_eq!(
                (said.token, said.dies, said.code.as_deref()),
                (None, None, Some("connection_paused"))
            );
            assert_eq!(native_status(status, said.code.as_deref()), 409, "{name}");
        }
        let said = read("Vault, bearer", 404, json!({ "errors": [] }));
        assert_eq!(said.code.as_deref(), Some("connection_not_found"));
    }
}
