//! Secrecy (I11): the main job and its failures, with every secret known to the test; then a search for each
//! secret, in every common encoding, in everything that the daemon wrote, said or stored.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use entra_emulator::{Endpoint, Fault, FaultRule, Garbage, Mode, RevokeKind};
use http::Method;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokenward::domain::time::Clock;
use tokenward::keyring::files;
use tokenward::system::SystemClock;

use crate::attacks_rights::operate;
use crate::audit::Journal;
use crate::http_client::{Answer, Browser, exchange as exchange_over, request};
use crate::notices::section;
use crate::pki::{self, Authority, Identity, Leaf, connector, dial};
use crate::resource::{Reply, Resource};
use crate::tokens::{P256, jwt, p256_jwk};
use crate::world::{
    ALICE, BOB, CLIENT_ID, CLIENT_SECRET, Kept, Plan, World, attribute, free_port, hidden_fields, text,
    write_secret,
};

// === the searcher ===

/// Bytes of a needle that are looked up at once; no needle is shorter.
const PREFIX: usize = 8;
/// Pieces of long secrets are searched for, so that a part that leaked is found as well.
const PIECE: usize = 24;

/// Secrets in every encoding they might leak in.
#[derive(Default)]
pub(crate) struct Searcher {
    /// By their first bytes: the needles, and what each is.
    needles: HashMap<[u8; PREFIX], Vec<(Vec<u8>, String)>>,
    secrets: usize,
}

impl Searcher {
    pub(crate) fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= 16, "{name} is too short to be told from chance");
        self.secrets += 1;
        let last = secret.len().saturating_sub(PIECE);
        let mut starts = vec![0, last / 2, last];
        starts.dedup();
        for start in starts {
            let piece = &secret[start..secret.len().min(start + PIECE)];
            for (encoding, needle) in encodings(piece) {
                let prefix: [u8; PREFIX] = needle[..PREFIX].try_into().expect("long enough");
                let known = self.needles.entry(prefix).or_default();
                if !known.iter().any(|(other, _)| *other == needle) {
                    known.push((needle, format!("{name} ({encoding})")));
                }
            }
        }
    }

    /// What is found in a haystack.
    fn find(&self, haystack: &[u8]) -> Vec<&str> {
        let mut found = Vec::new();
        for at in 0..haystack.len().saturating_sub(PREFIX - 1) {
            let rest = &haystack[at..];
            let prefix: [u8; PREFIX] = rest[..PREFIX].try_into().expect("long enough");
            let candidates = self.needles.get(&prefix).into_iter().flatten();
            found.extend(
                candidates.filter(|(needle, _)| rest.starts_with(needle)).map(|(_, name)| name.as_str()),
            );
        }
        found
    }

    pub(crate) fn must_be_absent(&self, place: &str, haystack: &[u8]) {
        let found = self.find(haystack);
        assert!(found.is_empty(), "in {place} ({} bytes): {found:?}", haystack.len());
    }
}

/// The forms of a piece, each without the characters that its neighbours would change.
fn encodings(piece: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex = |upper: bool, before: &str| {
        piece.iter().fold(String::new(), |mut out, byte| {
            let _ = if upper { write!(out, "{before}{byte:02X}") } else { write!(out, "{before}{byte:02x}") };
            out
        })
    };
    let mut all = vec![
        ("raw", piece.to_vec()),
        ("hex", hex(false, "").into_bytes()),
        ("HEX", hex(true, "").into_bytes()),
        ("percent, all", hex(false, "%").into_bytes()),
        ("PERCENT, all", hex(true, "%").into_bytes()),
        ("json, all", hex(false, "\\u00").into_bytes()),
        ("JSON, all", hex(true, "\\u00").into_bytes()),
        ("\\x, all", hex(false, "\\x").into_bytes()),
    ];
    for shift in 0..3 {
        let mut shifted = vec![0; shift];
        shifted.extend_from_slice(piece);
        // The first characters hold bits of what is before, the last of what comes after.
        let from = [0, 2, 3][shift];
        let until = (shifted.len() * 8) / 6;
        all.push(("base64", STANDARD.encode(&shifted).as_bytes()[from..until].to_vec()));
        all.push(("base64url", URL_SAFE_NO_PAD.encode(&shifted).as_bytes()[from..until].to_vec()));
    }
    let form: String = form_urlencoded::byte_serialize(piece).collect();
    all.push(("form", form.clone().into_bytes()));
    let lower: String = piece.iter().fold(String::new(), |mut out, byte| {
        let _ = if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            write!(out, "{}", char::from(*byte))
        } else {
            write!(out, "%{byte:02x}")
        };
        out
    });
    all.push(("percent", lower.to_ascii_lowercase().into_bytes()));
    all.push(("percent", lower.into_bytes()));
    if let Ok(text) = std::str::from_utf8(piece) {
        let quoted = serde_json::to_string(text).expect("JSON");
        all.push(("json", quoted.trim_matches('"').as_bytes().to_vec()));
        all.push(("json in json", quoted.replace('\\', "\\\\").trim_matches('"').as_bytes().to_vec()));
        all.push(("reversed", text.chars().rev().collect::<String>().into_bytes()));
        all.push(("lower case", text.to_ascii_lowercase().into_bytes()));
        all.push(("upper case", text.to_ascii_uppercase().into_bytes()));
    }
    all
}

#[test]
fn the_searcher_finds_a_secret_in_every_encoding_and_at_every_place() {
    let text = b"1.A-canary/with~odd \"characters\\\" & 0123456789abcdef+end".to_vec();
    let binary: Vec<u8> = (0..32u8).map(|n| n.wrapping_mul(37).wrapping_add(0x80)).collect();
    for secret in [text, binary, CLIENT_SECRET.as_bytes().to_vec()] {
        let mut searcher = Searcher::default();
        searcher.add("canary", &secret);
        searcher.must_be_absent("noise", &b"nothing of that kind is in here, 1.A-canar".repeat(100));
        let hex = |upper: bool, before: &str| {
            secret.iter().fold(String::new(), |mut out, byte| {
                let _ =
                    if upper { write!(out, "{before}{byte:02X}") } else { write!(out, "{before}{byte:02x}") };
                out
            })
        };
        let mut forms: Vec<Vec<u8>> = vec![secret.clone()];
        for (upper, before) in
            [(false, ""), (true, ""), (false, "%"), (true, "%"), (false, "\\u00"), (false, "\\x")]
        {
            forms.push(hex(upper, before).into_bytes());
        }
        forms.push(form_urlencoded::byte_serialize(&secret).collect::<String>().into_bytes());
        for before in ["", "a", "ab", "abc", "abcd"] {
            for after in ["", "z", "zy"] {
                let planted = [before.as_bytes(), &secret, after.as_bytes()].concat();
                forms.push(STANDARD.encode(&planted).into_bytes());
                forms.push(URL_SAFE_NO_PAD.encode(&planted).into_bytes());
            }
        }
        if let Ok(text) = std::str::from_utf8(&secret) {
            forms.push(json!({ "a": text }).to_string().into_bytes());
            forms.push(json!({ "a": json!({ "b": text }).to_string() }).to_string().into_bytes());
        }
        // A part of it is found as well.
        forms.push(secret[secret.len() - PIECE..].to_vec());
        forms.push(secret[..PIECE].to_vec());
        for form in forms {
            for (before, after) in [(0, 0), (1, 0), (1000, 1000), (4095, 3)] {
                let haystack = [&vec![b'x'; before][..], &form, &vec![b'y'; after]].concat();
                assert!(!searcher.find(&haystack).is_empty(), "{}", String::from_utf8_lossy(&form));
            }
        }
    }
}

// === the run ===

/// What the daemon said, but for tokens to those who may have them.
#[derive(Default)]
struct Heard {
    answers: Vec<(String, Answer)>,
}

impl Heard {
    fn hear(&mut self, what: &str, answer: Answer) {
        self.answers.push((what.to_owned(), answer));
    }
}

fn public_bytes(answer: &Answer) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in &answer.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(&answer.body);
    bytes
}

/// Connects through the return URL and by form or query, and hears every page on the way.
async fn connect_loudly(
    world: &World,
    heard: &mut Heard,
    name: &str,
    user: &str,
    secrets: &mut Vec<(String, String)>,
) {
    world.entra.sign_in_as(user);
    let session = world
        .start_session(json!({
            "app": "outlook", "connection": name, "login_hint": user,
            "return_url": "https://app.contoso.example/settings/outlook"
        }))
        .await;
    let mut browser = Browser::default();
    let link = text(&session, "connect_url");
    // The page brings the browser's binding in its Set-Cookie, where it belongs.
    let mut invitation = browser.get(link).await.expect("a page");
    invitation.headers.remove("set-cookie");
    heard.hear("invitation", invitation);
    let pressed = browser.post(link, "").await.expect("the button");
    let authorize = pressed.location();
    let asked = browser.get(&authorize).await.expect("the authority");
    let back = if asked.status.is_redirection() {
        browser.get(&asked.location()).await.expect("the way back")
    } else {
        // A form comes without the cookie, and is relayed.
        let page = asked.text();
        let action = attribute(&page, "action");
        let relayed = Browser::default().post(&action, &hidden_fields(&page)).await.expect("the relay");
        let back = browser.get(&relayed.location()).await.expect("the way back");
        heard.hear("relay", relayed);
        back
    };
    heard.hear("the way back, but for its code", Answer { headers: http::HeaderMap::new(), ..back.clone() });
    let location = back.location();
    secrets.push((
        "browser binding".to_owned(),
        browser.cookie(link).split_once('=').expect("a cookie").1.to_owned(),
    ));
    let code = form_urlencoded::parse(location.split_once('?').expect("a query").1.as_bytes())
        .find(|(name, _)| name == "code")
        .map(|(_, code)| code.into_owned());
    if let Some(code) = code {
        secrets.push(("confirmation code".to_owned(), code.clone()));
        let path = format!("/v1/connect-sessions/{}/confirm", text(&session, "id"));
        heard.hear("wrong code", world.api(Method::POST, &path, json!({ "code": "A".repeat(43) })).await);
        heard.hear("confirm", world.api(Method::POST, &path, json!({ "code": code })).await);
    }
    heard.hear(
        "session",
        world.api(Method::GET, &format!("/v1/connect-sessions/{}", text(&session, "id")), Value::Null).await,
    );
}

/// Requests that carry secrets where none belongs.
async fn wrong_requests(world: &World, heard: &mut Heard, token: &str, refresh: &str) {
    let token_path = "/v1/apps/outlook/connections/team-a%2Falice/token";
    let local = &world.daemon.local;
    for path in [
        format!("{token_path}?access_token={token}"),
        format!("{token_path}?scope={token}"),
        format!("{token_path}?min_ttl={token}"),
        format!("{token_path}?resource={refresh}"),
        format!("/v1/apps/outlook/connections/{token}/token"),
        format!("/v1/apps/{token}/connections/x/token"),
        format!("/v1/connect-sessions/{token}"),
        format!("/{refresh}"),
        format!("/v1/apps/outlook/connections?cursor={token}"),
        format!("/v1/apps/outlook/connections?status={refresh}"),
    ] {
        // Longer than any path may be is an answer too.
        heard.hear("path", world.api(Method::GET, &path, Value::Null).await);
    }
    let bearer = format!("Bearer {}", world.key);
    for body in [
        format!("{{\"rejected\": \"{token}\"}}"),
        format!("{{\"rejected\": \"{token}"),
        format!("{{\"{token}\": 1}}"),
        format!("{{\"claims\": \"{token}\", \"rejected\": \"{refresh}\"}}"),
        format!("{{\"claims\": {{\"access_token\": \"{token}\"}}}}"),
        format!("{{\"scope\": \"{refresh}\", \"scope\": \"{refresh}\"}}"),
        format!("access_token={token}"),
        token.to_owned(),
        format!("[\"{refresh}\"]"),
        format!("{{\"app\": \"outlook\", \"connection\": \"{token}\", \"return_url\": \"{refresh}\"}}"),
        format!("{{\"app\": \"{token}\", \"connection\": \"x\", \"account\": \"{refresh}\"}}"),
        format!(
            "{{\"app\": \"outlook\", \"connection\": \"x\", \"prompt\": \"{token}\", \"scopes\": \
             \"{refresh}\"}}"
        ),
    ] {
        for path in [token_path, "/v1/connect-sessions", "/v1/admin-consent-sessions"] {
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
            let answer = request(Method::POST, &format!("{local}{path}"), &headers, body.clone()).await;
            heard.hear("body", answer.expect("an answer"));
        }
    }
    let basic = STANDARD.encode(format!("mail-sync:{}", world.key));
    for value in [
        format!("Bearer {token}"),
        format!("Bearer {refresh}"),
        format!("Bearer {}x", world.key),
        format!("Bearer {}", world.key.to_ascii_uppercase()),
        format!("Basic {basic}"),
        format!("Token {}", world.key),
        world.key.clone(),
        format!("bearer  {},{}", world.key, world.key),
        format!("Negotiate {CLIENT_SECRET}"),
    ] {
        let headers = [("authorization", value.as_str())];
        let answer = request(Method::GET, &format!("{local}{token_path}"), &headers, "").await;
        heard.hear("authorization", answer.expect("an answer"));
    }
    for name in [
        "x-identity-header",
        "x-vault-token",
        "x-api-key",
        "cookie",
        "traceparent",
        "tracestate",
        "x-request-id",
        "user-agent",
        "referer",
    ] {
        let headers = [(name, world.key.as_str())];
        let answer = request(Method::GET, &format!("{local}{token_path}"), &headers, "").await;
        heard.hear(name, answer.expect("an answer"));
    }
    let key = &world.key;
    let in_url =
        request(Method::GET, &format!("{local}{token_path}?api_key={key}&access_token={key}"), &[], "").await;
    heard.hear("key in the URL", in_url.expect("an answer"));
    // The listeners for browsers and for operators.
    let base = world.base_url();
    for url in [
        format!("{base}/callback/outlook?code={refresh}&state={token}"),
        format!("{base}/callback/outlook?relay={token}"),
        format!("{base}/connect/{refresh}"),
        format!("{base}/{token}?{refresh}"),
        format!("{}/{token}", world.daemon.ops),
        format!("{}/metrics?{refresh}", world.daemon.ops),
    ] {
        heard.hear("another listener", request(Method::GET, &url, &[], "").await.expect("an answer"));
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = Bytes::from(format!("code={refresh}&state={token}"));
    let relayed = request(Method::POST, &format!("{base}/callback/outlook"), &form, body).await;
    heard.hear("form", relayed.expect("an answer"));
}

/// Method, path, headers and body of a request.
type Sent = (&'static str, String, Vec<(&'static str, String)>, String);

/// The doors of the scene: every way to prove who asks that has a secret in it.
struct Doors {
    issuer: &'static str,
    port: u16,
    server: Authority,
    mesh: Identity,
}

impl Doors {
    fn new() -> Self {
        let callers = Authority::root("callers", 48);
        let mesh = callers.issue(Leaf::new().uri("spiffe://contoso.com/mesh"));
        // (What issues the callers issues the listener's certificate, too.)
        Doors { issuer: "https://cluster.example", port: free_port(), server: callers, mesh }
    }

    fn plan(&self, plan: Plan) -> Plan {
        let Identity { chain, key } = pki::server(&self.server);
        let rule =
            "app = \"outlook\"\nconnections = [\"*\"]\nbulk = true\nscopes = [\"*\"]\napp_only = [\"home\"]";
        let caller = |name: &str, way: &str| {
            format!("[callers.{name}]\nauthenticate = [{way}]\n[[callers.{name}.allow]]\n{rule}\n")
        };
        let tls = "certificate = \"local.pem\", key = \"local.key\", client_ca = \"callers-ca.pem\"";
        let sections = [
            format!("[[listen.local]]\naddress = \"127.0.0.1:{}\"\ntls = {{ {tls} }}\n", self.port),
            format!(
                "[issuers.cluster]\nissuer = \"{}\"\naudience = \"tokenward\"\njwks_file = \"jwks.json\"\n",
                self.issuer
            ),
            caller("pod", "{ jwt = { issuer = \"cluster\", subject = \"pod\" } }"),
            caller("mesh", "{ spiffe = \"spiffe://contoso.com/mesh\" }"),
        ];
        plan.app_lines("home_tenant = \"22222222-0000-4000-8000-00000000000b\"")
            .sections(&sections.concat())
            .file("jwks.json", &json!({ "keys": [p256_jwk("k", &P256)] }).to_string())
            .file("local.pem", &chain)
            .file("local.key", &key)
            .file("callers-ca.pem", &self.server.pem())
    }

    /// An assertion of the issuer with another life or audience. Its signature is the secret.
    fn assertion(&self, world: &World, audience: &str, life: i64) -> String {
        let now = SystemClock::new().now().plus(world.ahead()).unix_seconds();
        let claims = json!({
            "iss": self.issuer, "aud": audience, "sub": "pod", "iat": now - 60, "nbf": now - 60,
            "exp": now + life,
        });
        jwt(&json!({ "alg": "ES256", "kid": "k" }), &claims)
    }

    /// Good and bad requests at every door of the local API, with secrets in every place where a caller can
    /// put one. What is refused is heard; a token that is handed out belongs into its answer.
    async fn ask(
        &self,
        world: &World,
        heard: &mut Heard,
        (token, refresh): (&str, &str),
        secrets: &mut Vec<(String, String)>,
    ) {
        const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
        world.connect("doors", ALICE).await;
        let key = world.key.as_str();
        let good = self.assertion(world, "tokenward", 600);
        let bad = [
            self.assertion(world, "tokenward", -30),
            self.assertion(world, "another", 600),
            format!("{good}x"),
        ];
        for one in bad.iter().chain([&good]) {
            let (_, signature) = one.rsplit_once('.').expect("three parts");
            secrets.push(("assertion".to_owned(), signature.to_owned()));
        }
        let bearer = |secret: &str| format!("Bearer {secret}");
        let basic =
            |name: &str, secret: &str| format!("Basic {}", STANDARD.encode(format!("{name}:{secret}")));
        let connection = "urn:tokenward:params:oauth:token-type:connection";
        let kind = |word: &str| format!("urn:ietf:params:oauth:token-type:{word}");
        let form = |pairs: &[(&str, &str)]| {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
            form.extend_pairs(pairs);
            form.finish()
        };
        let alice = [("subject_token", "outlook:doors"), ("subject_token_type", connection)];
        let client = [("client_id", "mail-sync"), ("client_secret", key)];
        let as_client = |pairs: &[(&str, &str)]| form(&[pairs, &client].concat());
        let of = |name: &str, rest: &str| format!("/v1/apps/outlook/connections/{name}{rest}");
        let native = of("doors", "/token");
        let graph = "resource=https://graph.microsoft.com&api-version=2019-08-01";
        let shared = format!("/msi/token?{graph}&client_id=outlook:doors");
        let exchange = "/oauth2/token";
        let mut all: Vec<Sent> = Vec::new();
        let mut get = |path: String, headers: &[(&'static str, String)]| {
            all.push(("GET", path, headers.to_vec(), String::new()));
        };
        for secret in [key, token, refresh, CLIENT_SECRET, good.as_str()]
            .into_iter()
            .chain(bad.iter().map(String::as_str))
        {
            get(native.clone(), &[("authorization", bearer(secret))]);
            for header in ["x-identity-header", "secret"] {
                get(shared.clone(), &[(header, secret.to_owned())]);
                get(of("doors", &format!("/msi/token?{graph}")), &[(header, secret.to_owned())]);
            }
            get(shared.clone(), &[("x-identity-header", key.to_owned()), ("authorization", bearer(secret))]);
            get("/v1/outlook/creds/doors".to_owned(), &[("x-vault-token", secret.to_owned())]);
            get("/v1/outlook/creds/doors".to_owned(), &[("authorization", bearer(secret))]);
            get("/v1/auth/token/lookup-self".to_owned(), &[("x-vault-token", secret.to_owned())]);
            get("/v1/apps/outlook/token".to_owned(), &[("authorization", bearer(secret))]);
        }
        let known = [("x-identity-header", key.to_owned())];
        for secret in [token, refresh] {
            for path in [
                format!("/msi/token?resource={secret}&client_id=outlook:doors"),
                format!("/msi/token?{graph}&client_id={secret}"),
                format!("/msi/token?{graph}&client_id=outlook:{secret}"),
                format!("/msi/token?{graph}&object_id={secret}"),
                format!("/msi/token?api-version={secret}"),
                format!("{shared}&token_sha256_to_refresh={secret}"),
                format!("/msi/{secret}"),
                format!("/oauth2/{secret}"),
            ] {
                get(path, &known);
            }
            let known = [("authorization", bearer(key))];
            for path in [
                format!("/v1/outlook/creds/{secret}"),
                format!("/v1/{secret}/creds/x"),
                format!("/v1/outlook/creds/doors?minimum_seconds={secret}"),
                format!("/v1/sys/{secret}"),
                format!("/v1/apps/outlook/token?tenant={secret}"),
                format!("/v1/apps/outlook/token?resource={secret}"),
                format!("/v1/apps/outlook/token?min_ttl={secret}"),
                format!("{native}?claims={secret}"),
            ] {
                get(path, &known);
            }
        }
        let mut post = |path: &str, headers: &[(&'static str, String)], body: String| {
            let headers = [&[(FORM.0, FORM.1.to_owned())], headers].concat();
            all.push(("POST", path.to_owned(), headers, body));
        };
        post(exchange, &[], as_client(&alice));
        post(exchange, &[("authorization", basic("mail-sync", key))], form(&alice));
        for secret in [token, refresh, CLIENT_SECRET, good.as_str(), &bad[0]] {
            post(exchange, &[("authorization", basic("mail-sync", secret))], form(&alice));
            post(exchange, &[("authorization", basic(secret, key))], form(&alice));
            post(exchange, &[("authorization", basic("mail-sync", key))], form(&[("client_secret", secret)]));
            post(exchange, &[], form(&[("client_id", "mail-sync"), ("client_secret", secret)]));
            post(exchange, &[], form(&[("client_id", secret), ("client_secret", key)]));
            let jwt_bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            post(exchange, &[], form(&[("client_assertion", secret), ("client_assertion_type", jwt_bearer)]));
            for word in ["id_token", "access_token", "jwt"] {
                let subject = [("subject_token", secret), ("subject_token_type", &kind(word))];
                post(exchange, &[], as_client(&subject));
                post(exchange, &[], as_client(&[&subject[..], &[("audience", "outlook:doors")]].concat()));
            }
            for (name, value) in [
                ("subject_token", secret),
                ("subject_token_type", secret),
                ("requested_token_type", secret),
                ("scope", secret),
                ("audience", secret),
                ("resource", &format!("https://{secret}")),
                ("min_ttl", secret),
                ("actor_token", secret),
                (secret, "x"),
            ] {
                let others: Vec<_> = alice.into_iter().filter(|(other, _)| *other != name).collect();
                post(exchange, &[], as_client(&[&others[..], &[(name, value)]].concat()));
            }
            post(exchange, &[], secret.to_owned());
            post(&format!("{exchange}?client_secret={secret}"), &[], as_client(&alice));
            post(&native, &[("authorization", bearer(key))], format!("{{\"claims\": \"{secret}\"}}"));
            let challenge = json!({ "access_token": { "nbf": { "essential": true, "value": secret } } });
            let challenge = json!({ "claims": STANDARD.encode(challenge.to_string()) }).to_string();
            post(&native, &[("authorization", bearer(key))], challenge);
        }
        let mut handed_out = 0;
        for (method, path, headers, body) in all {
            // More than ten of a kind in one second are summed up: they must be told one by one.
            world.pass(Duration::from_millis(200));
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let url = format!("{}{path}", world.daemon.local);
            let method = method.parse().expect("a method");
            let answer = request(method, &url, &headers, body).await.expect("an answer");
            let has_token = answer.status == 200 && answer.text().contains("\"access_token\"");
            handed_out += usize::from(has_token);
            // (Who asks for a scope that was not granted is told which: a client secret could be one's name.)
            let names_scope = answer.text().contains("\"scope_not_granted\"");
            if !has_token && !names_scope {
                heard.hear("a door", answer);
            }
        }
        assert!(handed_out >= 10, "{handed_out}");
        // With a certificate, and with a key beside it that decides alone.
        for header in [None, Some(bearer(token))] {
            let stream =
                dial(&connector(&self.server.pem(), Some(&self.mesh)), self.port).await.expect("TLS");
            let headers: Vec<_> = header.iter().map(|value| ("authorization", value.as_str())).collect();
            let (uri, body) = (native.parse().expect("a path"), Bytes::new());
            let answer = exchange_over(stream, Method::GET, &uri, "localhost", &headers, body).await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.status.as_u16(), if header.is_some() { 401 } else { 200 });
        }
    }
}

/// More base64 digits than tell which key sealed what.
const SEALED_HEAD: usize = 96;

/// The secret of the webhook, as its file has it.
fn webhook_secret() -> String {
    format!("whsec_{}", STANDARD.encode(b"the canary of a webhook, 32 bytes"))
}

/// A handle, used well and badly: at the relay, at every place where it does not belong, and after its end.
async fn give_on(world: &World, heard: &mut Heard, secrets: &mut Vec<(String, String)>) {
    world.connect("user-1", ALICE).await;
    let of = |rest: &str| format!("/v1/apps/outlook/connections/user-1{rest}");
    let wanted = json!({ "ttl": 3600, "relay": ["GET graph:/v1.0/me/messages*"], "note": "the night's run" });
    let made = world.api_as(&world.reader_key, Method::POST, &of("/handles"), wanted).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let (handle, id) = (text(&made.json(), "handle").to_owned(), text(&made.json(), "id").to_owned());
    let sealed = handle.strip_prefix(&format!("twh_{id}_")).expect("its id is before").to_owned();
    let messages = of("/relay/graph/v1.0/me/messages");
    let used = world.api_as(&handle, Method::GET, &messages, Value::Null).await;
    assert_eq!(used.status, 200, "{}", used.text());
    heard.hear("relayed by a handle", used);
    let flipped = if handle.ends_with('0') { '1' } else { '0' };
    let tampered = format!("{}{flipped}", &handle[..handle.len() - 1]);
    for (bearer, path) in [
        (&handle, of("/token")),
        (&handle, of("")),
        (&handle, of("/relay/graph/v1.0/me/contacts")),
        (&handle, format!("{messages}?$search=%22{handle}%22")),
        (&handle, of(&format!("/relay/graph/v1.0/me/messages/{handle}"))),
        (&handle, "/v1/events".to_owned()),
        (&handle, "/v1/auth/token/lookup-self".to_owned()),
        (&tampered, messages.clone()),
        (&tampered, of("/token")),
        (&world.key, of(&format!("/token?scope={handle}"))),
        (&world.key, format!("/v1/events?after={handle}")),
        (&world.key, format!("/v1/{handle}")),
        (&world.key, of(&format!("/relay/graph/v1.0/{handle}"))),
    ] {
        heard.hear("a handle elsewhere", world.api_as(bearer, Method::GET, &path, Value::Null).await);
    }
    for header in ["x-identity-header", "x-vault-token", "x-api-key", "cookie", "x-request-id", "traceparent"]
    {
        let url = format!("{}{}", world.daemon.local, of("/token"));
        let answer = request(Method::GET, &url, &[(header, handle.as_str())], "").await;
        heard.hear("a handle in a field", answer.expect("an answer"));
    }
    for body in [
        json!({ "ttl": 3600, "relay": [&handle] }),
        json!({ "ttl": 3600, "relay": ["GET graph:/v1.0/me/messages*"], "handle": &handle }),
        json!({ "ttl": &handle }),
    ] {
        heard.hear("another", world.api_as(&world.reader_key, Method::POST, &of("/handles"), body).await);
    }
    // An operator who has found it, and takes the whole of it for its id.
    let end = async |which: &str| {
        operate(world, Method::POST, "/admin/v1/revocations", json!({ "handle": which })).await
    };
    let mistaken = end(&handle).await;
    assert_eq!(mistaken.status, 400, "{}", mistaken.text());
    heard.hear("revoked by the handle itself", mistaken);
    let ended = end(&id).await;
    assert_eq!(ended.status, 200, "{}", ended.text());
    let after = world.api_as(&handle, Method::GET, &messages, Value::Null).await;
    assert_eq!(after.status, 401, "{}", after.text());
    heard.hear("after its end", after);
    // (How it begins, all begin that one key sealed: what other things are sealed in, too.)
    secrets.push(("handle".to_owned(), sealed[SEALED_HEAD..].to_owned()));
}

/// Files under a folder, with their content.
fn files_under(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map_while(Result::ok) {
            let path = entry.path();
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.push((path.display().to_string(), std::fs::read(&path).expect("read")));
            }
        }
    }
    found
}

async fn nothing_leaks(kept: Kept, mode: Mode, form_post: bool) {
    let doors = Doors::new();
    // A receiver that fails first, so that the log has something to say of it.
    let calls = AtomicUsize::new(0);
    let receiver = Resource::start(move |_| {
        let status = if calls.fetch_add(1, Ordering::Relaxed) < 3 { 503 } else { 204 };
        Reply::Whole(status, Vec::new(), Bytes::new())
    })
    .await;
    let given = crate::relay::plan("{graph}", crate::relay::RULES);
    let given = given.sections(&section(&receiver.url, "")).file("webhook.secret", &webhook_secret());
    let mut plan = doors.plan(given.kept(kept).mode(mode).token_life(Duration::from_secs(600)));
    plan.form_post = form_post;
    // As much as it can be made to say.
    let mut world = plan.start().await;
    let config = world.folder.path().join("tokenward.toml");
    let loud =
        std::fs::read_to_string(&config).expect("read").replace("level = \"debug\"", "level = \"trace\"");
    std::fs::write(&config, loud).expect("write");
    // Every kind of sink at once.
    let sockets = ["syslog", "journald"].map(|kind| (kind, world.folder.path().join(format!("{kind}.sock"))));
    let journals = sockets.each_ref().map(|(kind, socket)| (*kind, Journal::bind(socket)));
    let also = sockets.iter().enumerate().map(|(item, (kind, socket))| {
        format!("TOKENWARD__AUDIT__ALSO__{}={kind}:{}\n", item + 1, socket.display())
    });
    let environment = format!("TOKENWARD__AUDIT__ALSO__0=stdout\n{}", also.collect::<String>());
    std::fs::write(world.folder.path().join("environment"), environment).expect("write");
    std::fs::write(world.folder.path().join("stdout"), "").expect("write");
    world.stop_and_restart().await;

    let mut heard = Heard::default();
    let mut secrets: Vec<(String, String)> = Vec::new();
    connect_loudly(&world, &mut heard, "team-a/alice", ALICE, &mut secrets).await;
    connect_loudly(&world, &mut heard, "team-b/bob", BOB, &mut secrets).await;
    world.connect("by-account", ALICE).await;
    let first = world.access_token("team-a/alice").await;
    assert_eq!(world.graph(&first).await.status, 200);

    // Refreshes, good and bad. Each fault sees a code redeemed and a token refreshed.
    let faults = [
        None,
        Some(Fault::status(500)),
        Some(Fault::status_retry_after(429, 1)),
        Some(Fault::Garbage(Garbage::Html)),
        Some(Fault::Garbage(Garbage::NotJson)),
        Some(Fault::Garbage(Garbage::TruncatedJson)),
        Some(Fault::Garbage(Garbage::TrailingBytes)),
        Some(Fault::Garbage(Garbage::DuplicateKeys)),
        Some(Fault::CutAnswer),
        Some(Fault::DropAfterProcessing),
        Some(Fault::aadsts(7_000_222)),
        Some(Fault::aadsts(7_000_215)),
        Some(Fault::aadsts(50_076)),
        Some(Fault::aadsts(700_016)),
        Some(Fault::WrongUserIdToken(BOB.to_owned())),
    ];
    for fault in faults {
        world.outlive_tokens();
        if let Some(fault) = &fault {
            world.entra.faults().inject(FaultRule::new(Endpoint::Token, fault.clone()).times(4));
        }
        let answer = world.token("team-a/alice").await;
        if answer.status != 200 {
            heard.hear("a refused token", answer);
        }
        world.entra.sign_in_as(ALICE);
        let session = world.start_session(json!({ "app": "outlook", "connection": "faulty" })).await;
        let mut browser = Browser::default();
        let (_, page) = world.sign_in(&mut browser, text(&session, "connect_url")).await;
        heard.hear("a connect", page);
        world.entra.faults().clear();
    }
    for path in ["", "/explain"] {
        let path = format!("/v1/apps/outlook/connections/team-a%2Falice{path}");
        heard.hear("show", world.api(Method::GET, &path, Value::Null).await);
    }
    heard.hear("list", world.api(Method::GET, "/v1/apps/outlook/connections", Value::Null).await);

    // The client secret is refused, for good and everywhere; then it is back.
    world.entra.rotate_secret(CLIENT_ID, "canary-other-secret-93jf~kwe0").expect("the app");
    world.outlive_tokens();
    heard.hear("app credential", world.token("team-b/bob").await);
    world.entra.rotate_secret(CLIENT_ID, CLIENT_SECRET).expect("the app");

    // A grant that died.
    world.entra.revoke_user(BOB, RevokeKind::GrantRevoked).expect("Bob");
    world.outlive_tokens();
    heard.hear("a dead grant", world.token("team-b/bob").await);
    let path = "/v1/apps/outlook/connections/by-account";
    heard.hear("delete", world.api(Method::DELETE, path, Value::Null).await);

    let issued = world.entra.issued_secrets();
    let live =
        |kind: &str| issued.iter().rfind(|(known, _)| *known == kind).expect("one was issued").1.clone();
    let (token, refresh) = (live("access_token"), live("refresh_token"));
    wrong_requests(&world, &mut heard, &token, &refresh).await;
    doors.ask(&world, &mut heard, (&token, &refresh), &mut secrets).await;
    give_on(&world, &mut heard, &mut secrets).await;
    // Another secret of the webhook, and one that is none.
    let file = world.folder.path().join("webhook.secret");
    let spoilt = format!("{}~", webhook_secret());
    write_secret(&file, &spoilt);
    let is_told = async || world.daemon.log().contains("webhook.secret");
    world.until("the spoilt secret is told", is_told).await;
    write_secret(&file, &webhook_secret());
    world.until("events are delivered", async || receiver.all().len() > 5).await;
    // What was issued for them is secret, too.
    let issued = world.entra.issued_secrets();

    // What there is to find.
    let mut searcher = Searcher::default();
    searcher.add("client secret", CLIENT_SECRET.as_bytes());
    let secret = webhook_secret();
    let secret = secret.strip_prefix("whsec_").expect("its prefix");
    searcher.add("webhook's secret", secret.as_bytes());
    searcher.add("webhook's key", &STANDARD.decode(secret).expect("base64"));
    for key in [&world.key, &world.reader_key] {
        // The part that is secret: caller names may be told.
        searcher.add(
            "API key",
            key.rsplit_once('_')
                .expect("a checksum")
                .0
                .rsplit_once('_')
                .map_or(key.as_str(), |(_, random)| random)
                .as_bytes(),
        );
    }
    for (kind, secret) in issued.iter().map(|(kind, secret)| (*kind, secret)) {
        // A JWT's head and claims say who and what; only its signature makes it a token. The emulator signs
        // none but writes 256 random characters there.
        let secret =
            if kind == "access_token" { secret.rsplit('.').next().unwrap_or(secret) } else { secret };
        searcher.add(kind, secret.as_bytes());
    }
    let mut verifiers = 0;
    for (kind, secret) in world.entra.presented_secrets() {
        if kind == "code_verifier" {
            verifiers += 1;
            searcher.add(kind, secret.as_bytes());
        }
    }
    for (name, secret) in &secrets {
        searcher.add(name, secret.as_bytes());
    }
    let tls_key = std::fs::read(world.folder.path().join("local.key")).expect("read");
    let tls_key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&tls_key).expect("PEM");
    // (The private number of a P-256 key; what follows it is public.)
    searcher.add("TLS key", &tls_key.secret_der()[36..68]);
    for key in files_under(&world.folder.path().join("keyring")) {
        let file = String::from_utf8(key.1).expect("text");
        let value =
            file.lines().find_map(|line| line.strip_prefix("key = ")).expect("the key").trim_matches('"');
        searcher.add("sealing key", &STANDARD.decode(value).expect("base64"));
    }
    files::open(&world.folder.path().join("keyring")).expect("the keyring is what was read");
    let of_kind = |wanted: &str| issued.iter().filter(|(kind, _)| *kind == wanted).count();
    assert!(
        of_kind("code") >= 10
            && of_kind("refresh_token") >= 5
            && of_kind("access_token") >= 5
            && verifiers >= 5
    );
    assert!(searcher.secrets > 40, "{}", searcher.secrets);

    // Where to look. First whether looking works: the places where secrets belong hold them.
    let secret_file = std::fs::read(world.folder.path().join("client-secret")).expect("read");
    assert!(!searcher.find(&secret_file).is_empty());
    let token = world.token("team-a/alice").await;
    if token.status == 200 {
        let mut own = Searcher::default();
        own.add("access token", text(&token.json(), "access_token").as_bytes());
        assert!(!own.find(&public_bytes(&token)).is_empty());
    }

    let process = format!("/proc/{}", world.daemon.pid());
    for file in ["cmdline", "environ", "comm", "status", "maps"] {
        let place = format!("{process}/{file}");
        let content = std::fs::read(&place).unwrap_or_else(|error| panic!("{place}: {error}"));
        searcher.must_be_absent(&place, &content);
    }
    assert!(std::fs::read(format!("{process}/cmdline")).is_ok_and(|line| !line.is_empty()));
    searcher.must_be_absent("the metrics", world.metrics().await.as_bytes());
    for (what, answer) in &heard.answers {
        searcher.must_be_absent(&format!("an answer ({what}, {})", answer.status), &public_bytes(answer));
    }
    assert!(heard.answers.len() > 80, "{}", heard.answers.len());
    // What a receiver gets has a signature, which is made with the secret and does not tell it.
    for seen in receiver.all() {
        searcher.must_be_absent("a delivery", format!("{:?}", seen.headers).as_bytes());
        searcher.must_be_absent("a delivery's body", &seen.body);
    }
    let log = world.daemon.log();
    assert!(log.len() > 10_000, "it said something");
    searcher.must_be_absent("the log", log.as_bytes());
    let printed = std::fs::read_to_string(world.folder.path().join("stdout")).expect("read");
    let sinks = journals.each_ref().map(|(kind, journal)| (*kind, journal.text()));
    for (sink, said) in sinks.into_iter().chain([("stdout", printed)]) {
        let of_doors = ["native", "msi", "oauth2", "vault", "browser"];
        let has = |door: &&str| said.contains(&format!("\"door\":\"{door}\""));
        assert!(of_doors.iter().all(has), "{sink} has records of every door");
        searcher.must_be_absent(sink, said.as_bytes());
    }

    if let Some(redis) = &world.redis {
        // Uncompressed, so that it can be searched; the append-only file has every write there ever was.
        redis.cli(&["CONFIG", "SET", "rdbcompression", "no"]);
        assert_eq!(redis.cli(&["SAVE"]), "OK");
        let held = files_under(redis.file("").as_path());
        assert!(
            held.iter().any(|(name, _)| name.ends_with(".rdb"))
                && held.iter().any(|(name, content)| name.ends_with(".aof") && content.len() > 1000)
        );
        for (name, content) in held {
            searcher.must_be_absent(&name, &content);
        }
        for key in redis.cli(&["--scan"]).lines() {
            searcher.must_be_absent("a key's name", key.as_bytes());
            searcher.must_be_absent(key, redis.cli(&["--raw", "DUMP", key]).as_bytes());
        }
    }
    // Twice: as it lies while it runs, and after an orderly end.
    for round in ["running", "ended"] {
        let mut searched = Vec::new();
        for (name, content) in files_under(world.folder.path()) {
            let own =
                ["/client-secret", "/local.key", "/webhook.secret"].iter().any(|own| name.ends_with(own));
            let own = own || name.contains("/keyring/");
            if !own {
                searcher.must_be_absent(&format!("{name}, {round}"), &content);
                searched.push(name);
            }
        }
        assert!(searched.iter().any(|name| name.ends_with("audit.jsonl")), "{searched:?}");
        assert!(kept == Kept::Redis || searched.iter().any(|name| name.contains("/data/")), "{searched:?}");
        if round == "running" {
            assert_eq!(world.daemon.terminate(), Some(0));
        }
    }
    searcher.must_be_absent("the log of the end", world.daemon.log().as_bytes());
}

#[tokio::test]
async fn no_secret_is_seen_outside_embedded_entra_query() {
    nothing_leaks(Kept::Embedded, Mode::Entra, false).await;
}

#[tokio::test]
async fn no_secret_is_seen_outside_redis_entra_form_post() {
    nothing_leaks(Kept::Redis, Mode::Entra, true).await;
}

#[tokio::test]
async fn no_secret_is_seen_outside_redis_strict_query() {
    nothing_leaks(Kept::Redis, Mode::Strict, false).await;
}
