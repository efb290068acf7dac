//! One scenario with OpenID providers from elsewhere, each unchanged: connect two users, hand out tokens,
//! refresh, restart, use a wrong client secret and then the right one, and withdraw one user's grant. The
//! quick ones run with the other tests; `make providers` installs and runs all.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::attacks_api::sha256;
use crate::http_client::{Answer, Browser, request};
use crate::interop::node_folder;
use crate::launcher::{Launcher, command, installed, repository};
use crate::world::{CLIENT_ID, CLIENT_SECRET, Plan, World, attribute, free_port, text, write_secret};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Long enough for a step of the scenario, and short enough to wait for its end, in seconds.
const SHORT_LIFE: &str = "60";

/// A provider, and what is its own.
struct Provider {
    name: &'static str,
    launch: fn() -> Command,
    scopes: &'static str,
    /// What its operator has to set in `[apps.outlook]`.
    settings: &'static str,
    /// Another prompt than the default one, with which a refresh token has to come as well.
    prompt: &'static str,
    /// What it answers to a wrong client secret.
    wrong_secret: Says,
    /// What it answers to the refresh token of a grant that was withdrawn.
    withdrawn: Says,
}

/// How a provider refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    /// In the words of the standard.
    Why,
    /// In words that may mean anything.
    Something,
    /// Not at all.
    Yes,
}

const NODE: Provider = Provider {
    name: "oidc-provider",
    launch: || {
        let mut node = command("node");
        node.arg(repository().join("tests/interop/oidc-provider/server.mjs")).current_dir(node_folder());
        // Long enough for the whole scenario: it is tokenward that asks for new ones here.
        node.env("TOKEN_LIFE", "3600");
        node
    },
    scopes: r#"["openid", "offline_access", "mail"]"#,
    settings: "",
    prompt: "login",
    wrong_secret: Says::Why,
    withdrawn: Says::Why,
};

const MOCK: Provider = Provider {
    name: "oauth2-mock-server",
    launch: || {
        let mut node = command("node");
        node.arg(repository().join("tests/interop/oauth2-mock-server/server.mjs")).current_dir(node_folder());
        node
    },
    scopes: r#"["openid", "mail"]"#,
    settings: "",
    prompt: "login",
    wrong_secret: Says::Yes,
    withdrawn: Says::Yes,
};

const DJANGO: Provider = Provider {
    name: "django-oauth-toolkit",
    launch: || python("venv", "tools", "django-oauth-toolkit"),
    scopes: r#"["openid", "read"]"#,
    settings: "",
    prompt: "login",
    wrong_secret: Says::Why,
    withdrawn: Says::Why,
};

const CANAILLE: Provider = Provider {
    name: "canaille",
    launch: || python("providers", "providers", "canaille"),
    scopes: r#"["openid", "profile"]"#,
    settings: "",
    // Its clock of sign-ins ticks in seconds: whom `login` asks twice within one is asked again and again.
    prompt: "consent",
    wrong_secret: Says::Why,
    withdrawn: Says::Why,
};

const IDPY: Provider = Provider {
    name: "idpyoidc",
    launch: || {
        let mut python = python("providers", "providers", "idpyoidc");
        python.env("TOKEN_LIFE", SHORT_LIFE);
        python
    },
    scopes: r#"["openid", "offline_access"]"#,
    settings: "",
    prompt: "login",
    wrong_secret: Says::Something,
    withdrawn: Says::Something,
};

const GLEWLWYD: Provider = Provider {
    name: "glewlwyd",
    launch: || {
        let mut python = python("providers", "providers", "glewlwyd");
        python.env("DEBIAN", installed("debian", "providers")).env("TOKEN_LIFE", SHORT_LIFE);
        python
    },
    scopes: r#"["openid"]"#,
    settings: "",
    prompt: "login",
    wrong_secret: Says::Something,
    withdrawn: Says::Something,
};

const LEMONLDAP: Provider = Provider {
    name: "lemonldap-ng",
    launch: || {
        let mut python = python("providers", "providers", "lemonldap-ng");
        python.env("DEBIAN", installed("debian", "providers")).env("TOKEN_LIFE", SHORT_LIFE);
        python
    },
    scopes: r#"["openid", "offline_access"]"#,
    settings: "",
    prompt: "login",
    wrong_secret: Says::Why,
    withdrawn: Says::Something,
};

/// A launcher in Python, with what was installed into a venv.
fn python(venv: &str, target: &str, launcher: &str) -> Command {
    let mut python = command(installed(&format!("{venv}/bin/python"), target));
    python.arg(repository().join("tests/interop").join(launcher).join("server.py"));
    // No bytecode beside the sources.
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

#[tokio::test]
async fn oidc_provider() {
    scenario(&NODE).await;
}

#[tokio::test]
async fn oauth2_mock_server() {
    scenario(&MOCK).await;
}

#[tokio::test]
async fn django_oauth_toolkit() {
    scenario(&DJANGO).await;
}

#[tokio::test]
#[ignore = "make providers"]
async fn canaille() {
    scenario(&CANAILLE).await;
}

#[tokio::test]
#[ignore = "make providers"]
async fn idpyoidc() {
    scenario(&IDPY).await;
}

#[tokio::test]
#[ignore = "make providers"]
async fn glewlwyd() {
    scenario(&GLEWLWYD).await;
}

#[tokio::test]
#[ignore = "make providers"]
async fn lemonldap_ng() {
    scenario(&LEMONLDAP).await;
}

/// A provider that runs, and a daemon with an app at it.
struct Place {
    launcher: Launcher,
    world: World,
    userinfo: String,
}

impl Place {
    async fn open(provider: &'static Provider) -> Place {
        let port = free_port();
        let mut launch = (provider.launch)();
        launch
            .env("CLIENT_ID", CLIENT_ID)
            .env("CLIENT_SECRET", CLIENT_SECRET)
            .env("REDIRECT_URI", format!("http://localhost:{port}/callback/outlook"));
        let launcher = Launcher::start(provider.name, launch);
        let plan = Plan {
            scopes: provider.scopes,
            tenants: "",
            authority: Some(launcher.issuer.clone()),
            public_port: Some(port),
            ..Plan::default()
        };
        let world = plan.app_lines(provider.settings).start().await;
        let discovery = format!("{}/.well-known/openid-configuration", launcher.issuer.trim_end_matches('/'));
        let discovery = request(Method::GET, &discovery, &[], "").await.expect("the provider answers").json();
        Place { launcher, world, userinfo: text(&discovery, "userinfo_endpoint").to_owned() }
    }

    /// Signs `user` in on the provider's own pages; the session as it stands then.
    async fn sign_in(&self, connection: &str, user: &str, more: Value) -> Value {
        let mut body = json!({ "app": "outlook", "connection": connection, "login_hint": user });
        body.as_object_mut().expect("one").extend(more.as_object().expect("one").clone());
        let session = self.world.start_session(body).await;
        let (url, page) = self.walk(text(&session, "connect_url"), user).await;
        let state = self.world.session(text(&session, "id")).await;
        let log = || self.world.daemon.log();
        assert_ne!(state["state"], "pending", "{} ended at {url}: {}\n{}", user, page.text(), log());
        assert_ne!(state["state"], "failed", "{state}: {}\n{}", page.text(), log());
        json!({ "id": session["id"], "state": state["state"], "account": state["account"] })
    }

    async fn connect(&self, connection: &str, user: &str, more: Value) -> Value {
        let session = self.sign_in(connection, user, more).await;
        assert_eq!(session["state"], "awaiting_confirmation", "{session}");
        let path = format!("/v1/connect-sessions/{}/confirm", text(&session, "id"));
        let named = json!({ "account": session["account"] });
        let confirmed = self.world.api(Method::POST, &path, named).await;
        assert_eq!(confirmed.status, 200, "{}", confirmed.text());
        session["account"].clone()
    }

    /// What a browser and its user do: press the button, follow redirects, fill in forms and send them, until
    /// a page of tokenward comes.
    async fn walk(&self, connect_url: &str, user: &str) -> (String, Answer) {
        let base = self.world.base_url();
        let mut browser = Browser::default();
        let mut url = connect_url.to_owned();
        let mut answer = browser.post(connect_url, "").await.expect("the button");
        for _ in 0..30 {
            if answer.status.is_redirection() {
                url = resolve(&url, &answer.location());
                answer = browser.get(&url).await.expect("a page");
                continue;
            }
            if url.contains("/login.html?") {
                url = glewlwyds_program(&mut browser, &url, user).await;
                answer = browser.get(&url).await.expect("a page");
                continue;
            }
            let page = answer.text();
            if url.starts_with(&base) || !page.contains("<form") {
                return (url, answer);
            }
            let (action, form) = fill_in(&page, user);
            url = resolve(&url, &action);
            answer = browser.post(&url, &form).await.expect("a form is taken");
        }
        panic!("{user} went in circles at {url}: {}", answer.text());
    }

    /// A token as a caller gets it.
    async fn token(&self, connection: &str) -> String {
        self.world.access_token(connection).await
    }

    /// Reports that a resource refused a token.
    async fn report(&self, connection: &str, token: &str) -> Answer {
        let path = format!("/v1/apps/outlook/connections/{connection}/token");
        loop {
            let answer = self.world.api(Method::POST, &path, json!({ "rejected": sha256(token) })).await;
            if answer.status != 429 {
                return answer;
            }
            // A caller forces five renewals in ten seconds; it is told when to come back.
            let seconds = answer.json()["retry_after"].as_u64().expect("when to come back");
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }

    /// Reports it until the answer is another one than "try again", as a caller does.
    async fn report_until(&self, connection: &str, token: &str, enough: impl Fn(&Answer) -> bool) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.report(connection, token).await;
            if enough(&answer) {
                return answer;
            }
            let log = self.world.daemon.log();
            assert!(begun.elapsed() < PATIENCE, "{} {}\n{log}", answer.status, answer.text());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A new token in place of one that was refused.
    async fn refreshed(&self, connection: &str, before: &str) -> String {
        let answer = self.report_until(connection, before, |answer| answer.status == 200).await;
        let token = text(&answer.json(), "access_token").to_owned();
        assert_ne!(token, before);
        token
    }

    async fn status(&self, connection: &str) -> Value {
        self.world.show(connection).await["status"].clone()
    }

    /// Whose token it is, says the provider.
    async fn user_of(&self, token: &str) -> Value {
        let bearer = format!("Bearer {token}");
        let answer =
            request(Method::GET, &self.userinfo, &[("authorization", &bearer)], "").await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["sub"].clone()
    }
}

async fn scenario(provider: &'static Provider) {
    let mut place = Place::open(provider).await;

    let alice = place.connect("user-1", "alice", json!({})).await;
    let bob = place.connect("user-2", "bob", json!({ "prompt": provider.prompt })).await;
    assert_eq!(alice["iss"], place.launcher.issuer);
    let mut token = place.token("user-1").await;
    assert_eq!(place.user_of(&token).await, alice["sub"]);
    let others = place.token("user-2").await;
    assert_eq!(place.user_of(&others).await, bob["sub"]);

    for _ in 0..2 {
        token = place.refreshed("user-1", &token).await;
        assert_eq!(place.user_of(&token).await, alice["sub"]);
    }

    // What came last is durable: the same token from the store, and a new one with the refresh token beside
    // it.
    place.world.kill_and_restart().await;
    assert_eq!(place.token("user-1").await, token);
    token = place.refreshed("user-1", &token).await;
    assert_eq!(place.user_of(&token).await, alice["sub"]);

    wrong_secret(&mut place, provider.wrong_secret).await;
    withdrawn(&mut place, provider.withdrawn).await;
}

/// The app's fault: nobody's connection changes, who holds a token keeps it, and the right secret heals
/// everybody.
async fn wrong_secret(place: &mut Place, says: Says) {
    let expected = match says {
        Says::Why => "app_credential_rejected",
        Says::Something => "authority_unavailable",
        Says::Yes => return,
    };
    let file = place.world.folder.path().join("client-secret");
    let token = place.token("user-1").await;
    write_secret(&file, "another-secret-of-this-app");
    place.world.kill_and_restart().await;
    let refused = place.report("user-1", &token).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["code"], expected, "{}", refused.text());
    assert_eq!(place.status("user-1").await, "active");
    assert_eq!(place.token("user-1").await, token);

    write_secret(&file, CLIENT_SECRET);
    place.refreshed("user-1", &token).await;
    let others = place.token("user-2").await;
    place.refreshed("user-2", &others).await;
}

/// One user's grant ends: that user has to come again, and nobody else notices.
async fn withdrawn(place: &mut Place, says: Says) {
    if says == Says::Yes {
        return;
    }
    let token = place.token("user-1").await;
    let withdrawn = place.launcher.obey("revoke alice");
    assert!(withdrawn["revoked"].as_u64() >= Some(1), "{withdrawn}");
    let mut refused = place.report("user-1", &token).await;
    if says == Says::Something {
        assert_eq!(refused.json()["code"], "authority_unavailable", "{}", refused.text());
        // Only time, and another user whose refreshes work, can tell it from an app that is refused. It takes
        // a minute.
        let begun = Instant::now();
        let mut others = place.token("user-2").await;
        while refused.status == 503 && begun.elapsed() < 2 * PATIENCE {
            tokio::time::sleep(Duration::from_secs(3)).await;
            others = place.refreshed("user-2", &others).await;
            refused = place.report("user-1", &token).await;
        }
    }
    assert_eq!(refused.status, 409, "{}\n{}", refused.text(), place.world.daemon.log());
    assert_eq!(refused.json()["code"], "reauthorization_required");
    assert_eq!(place.status("user-1").await, "needs_reauthorization");

    let others = place.token("user-2").await;
    place.refreshed("user-2", &others).await;
    assert_eq!(place.status("user-2").await, "active");

    let renewed = place.sign_in("user-1", "alice", json!({})).await;
    assert_eq!(renewed["state"], "connected", "{renewed}");
    assert_eq!(place.status("user-1").await, "active");
    let token = place.token("user-1").await;
    place.refreshed("user-1", &token).await;
}

/// A form as its user sends it: hidden fields as they are, name and password, and the button that agrees.
fn fill_in(page: &str, user: &str) -> (String, String) {
    let forms = page.split("<form").skip(1).map(|rest| rest.split("</form").next().unwrap_or_default());
    let posts = forms.filter(|form| head(form).to_lowercase().contains("method=\"post\""));
    let form = posts.last().unwrap_or_else(|| panic!("no form to post: {page}"));
    let mut fields = form_urlencoded::Serializer::new(String::new());
    for input in form.split("<input").skip(1).map(head) {
        let (name, value) = (attribute(input, "name"), attribute(input, "value"));
        if name.is_empty() || attribute(input, "type") == "checkbox" {
            continue;
        }
        match attribute(input, "type").as_str() {
            "password" | "text" | "email" | "" => fields.append_pair(&name, user),
            _ => fields.append_pair(&name, &value),
        };
    }
    let buttons = form.split("<button").skip(1).map(head);
    if let Some(agree) =
        buttons.into_iter().find(|button| ["accept", "confirm"].iter().any(|word| button.contains(word)))
    {
        fields.append_pair(&attribute(agree, "name"), &attribute(agree, "value"));
    }
    (attribute(head(form), "action"), fields.finish())
}

/// What stands in a tag that was cut open.
fn head(tag: &str) -> &str {
    tag.split('>').next().unwrap_or_default()
}

/// What the program on Glewlwyd's login page calls; where it goes then.
async fn glewlwyds_program(browser: &mut Browser, url: &str, user: &str) -> String {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let asked: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let host = url.split("/login.html").next().unwrap_or_default();
    let json_type = [("content-type", "application/json")];
    let login = json!({ "username": user, "password": format!("the password of {user}") });
    let granted = json!({ "scope": asked["scope"] });
    let grant = format!("/api/auth/grant/{}", asked["client_id"]);
    for (method, path, body) in [(Method::POST, "/api/auth/", login), (Method::PUT, &grant, granted)] {
        let body = body.to_string().into();
        let answer =
            browser.send(method, &format!("{host}{path}"), body, &json_type).await.expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    format!("{}&g_continue", asked["callback_url"])
}

/// Where a link on a page leads.
fn resolve(from: &str, to: &str) -> String {
    if to.contains("://") {
        return to.to_owned();
    }
    let origin: String = from.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    let path = from.split(['?', '#']).next().unwrap_or(from);
    match to.chars().next() {
        None | Some('#') => from.to_owned(),
        Some('/') => format!("{origin}{to}"),
        Some('?') => format!("{path}{to}"),
        Some(_) => format!("{}/{to}", path.rsplit_once('/').map_or(path, |(folder, _)| folder)),
    }
}
