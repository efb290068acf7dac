//! `connect`: a connect session from the command line, made over the local API as any caller makes one.
//!
//! The link is data and goes to standard output; everything else is words. No token is handed out for the
//! connection before the account is confirmed, so the command asks about it by default.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::args::ConnectionArgs;
use super::client::{Client, DEADLINE, ReachArgs, target, text};
use super::connections::account_name;
use super::described::numbers;
use super::output::shown;
use super::{ConfigPath, Failure, World, block_on};
use crate::domain::account::PERSONAL_TENANT;

/// Length of one long poll of the session; the API takes up to 60 s.
const POLL: Duration = Duration::from_secs(25);
/// Time between two progress dots.
const DOT: Duration = Duration::from_secs(2);
/// Least time between two polls, if the daemon answers at once.
const BREATH: Duration = Duration::from_millis(300);
/// Most failed polls in a row, for a restart of the daemon.
const MOST_FAILURES: u32 = 30;

/// What to connect.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// What to ask the user for, space-separated; else the app's scopes
    #[arg(long, value_name = "SCOPES")]
    scopes: Option<String>,
    /// The user name to fill in on the sign-in page
    #[arg(long, value_name = "NAME")]
    login_hint: Option<String>,
    /// Where the browser goes afterwards; must be among the app's return_urls. The product there confirms
    /// then
    #[arg(long, value_name = "URL")]
    return_url: Option<String>,
    /// A word of your own for the connection, for lists and searches; several, if given more than once
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Let another account take the place of the one that the connection has
    #[arg(long)]
    change_account: bool,
    /// Confirm whichever account comes back, without asking
    #[arg(long)]
    yes: bool,
    /// Print {app, connection, id, connect_url, expires_at, state, reason, account}; the link goes to
    /// standard error
    #[arg(long)]
    json: bool,
    /// Make the session, print the link and end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let client = args.reach.local(config, world)?;
    block_on(async {
        let session = start(&client, args).await?;
        if args.json {
            if args.no_wait {
                return world.output.json(&session.shape(args, &json!({ "state": "pending" })));
            }
            world.output.say(&format!("Open this link and sign in:\n{}", shown(&session.url)));
        } else {
            world.output.say("Open this link and sign in:");
            world.output.data(&shown(&session.url))?;
            world.output.say(&format!("It works until {}.", shown(&session.expires_at)));
        }
        if args.no_wait {
            return Ok(());
        }
        tokio::select! {
            ended = follow(&client, args, &session, world) => {
                let ended = ended?;
                if args.json {
                    world.output.json(&session.shape(args, &ended))?;
                }
                conclude(&ended, args, world)
            }
            _ = tokio::signal::ctrl_c() => Err(Failure::failed(format!(
                "stopped waiting; the session {} stays: the link works until {}, and nothing is handed out \
                 until the account is confirmed",
                shown(&session.id), shown(&session.expires_at)
            ))
            .hint("run the command again for a new link")),
        }
    })
}

struct Session {
    id: String,
    url: String,
    expires_at: String,
}

impl Session {
    fn shape(&self, args: &Args, state: &Value) -> Value {
        let mut shape = json!({
            "app": args.connection.app.as_str(),
            "connection": args.connection.connection.as_str(),
            "id": self.id,
            "connect_url": self.url,
            "expires_at": self.expires_at,
        });
        for member in
            ["state", "reason", "account", "hint", "error", "error_codes", "trace_id", "correlation_id"]
        {
            if let Some(value) = state.get(member) {
                shape[member] = value.clone();
            }
        }
        shape
    }
}

async fn start(client: &Client, args: &Args) -> Result<Session, Failure> {
    let mut body = json!({
        "app": args.connection.app.as_str(),
        "connection": args.connection.connection.as_str(),
    });
    for (member, value) in
        [("scopes", &args.scopes), ("login_hint", &args.login_hint), ("return_url", &args.return_url)]
    {
        if let Some(value) = value {
            body[member] = json!(value);
        }
    }
    if !args.label.is_empty() {
        body["labels"] = json!(args.label);
    }
    if args.change_account {
        body["change_account"] = json!(true);
    }
    let started = client.ask(Method::POST, "/v1/connect-sessions", Some(&body), DEADLINE).await?;
    let session = Session {
        id: text(&started, "id").to_owned(),
        url: text(&started, "connect_url").to_owned(),
        expires_at: text(&started, "expires_at").to_owned(),
    };
    if session.id.is_empty() || session.url.is_empty() {
        return Err(Failure::failed("the daemon's answer holds no connect session"));
    }
    Ok(session)
}

/// Waits until the session ends, and confirms it on the way. Returns its last state.
async fn follow(
    client: &Client,
    args: &Args,
    session: &Session,
    world: &mut World,
) -> Result<Value, Failure> {
    let look =
        target(&["v1", "connect-sessions", &session.id], &[("wait", Some(&POLL.as_secs().to_string()))]);
    let mut failures = 0;
    let mut waits_for_product = false;
    loop {
        let state = match with_dots(client.ask(Method::GET, &look, None, POLL + DEADLINE), world).await {
            Ok(state) => {
                failures = 0;
                state
            }
            Err(error) if error.is_passing() && failures < MOST_FAILURES => {
                if failures == 0 {
                    world.output.say(&format!("{error}; trying again"));
                }
                failures += 1;
                world.clock.sleep(DOT).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match text(&state, "state") {
            "pending" => {}
            "awaiting_confirmation" if args.return_url.is_some() => {
                if !std::mem::replace(&mut waits_for_product, true) {
                    let name = shown(&account_name(&state["account"]));
                    world
                        .output
                        .say(&format!("{name} signed in; the product at the return URL confirms it."));
                }
            }
            "awaiting_confirmation" => return confirm(client, args, session, &state, world).await,
            _ => return Ok(state),
        }
        world.clock.sleep(BREATH).await;
    }
}

async fn with_dots<T>(waiting: impl Future<Output = T>, world: &mut World) -> T {
    let mut waiting = std::pin::pin!(waiting);
    loop {
        let tick = world.clock.sleep(DOT);
        tokio::select! {
            biased;
            done = &mut waiting => return done,
            () = tick => world.output.dot(),
        }
    }
}

async fn confirm(
    client: &Client,
    args: &Args,
    session: &Session,
    state: &Value,
    world: &mut World,
) -> Result<Value, Failure> {
    let account = &state["account"];
    let name = shown(&account_name(account));
    world.output.say(&signed_in(account, &name));
    let question =
        format!("Connect {name} as {} of app {}?", args.connection.connection, args.connection.app);
    if !args.yes && !world.output.ask(&question).await {
        return Err(Failure::failed("not confirmed: nothing is handed out, and the session ends by itself"));
    }
    let target = target(&["v1", "connect-sessions", &session.id, "confirm"], &[]);
    Ok(client.ask(Method::POST, &target, Some(&json!({ "account": account })), DEADLINE).await?)
}

/// Describes who signed in. The provider's verified values come first; the user can choose the name, which
/// may look like another's.
fn signed_in(account: &Value, name: &str) -> String {
    let ids = [("tenant", "tid"), ("issuer", "iss"), ("object id", "oid"), ("subject", "sub")];
    let lines: Vec<String> = ids
        .into_iter()
        .filter(|(_, member)| !text(account, member).is_empty())
        .map(|(word, member)| format!("  {word:<9}  {}\n", shown(text(account, member))))
        .collect();
    let personal = match text(account, "tid") == PERSONAL_TENANT {
        true => "  (the tenant of every personal Microsoft account)\n",
        false => "",
    };
    format!(
        "Somebody signed in:\n{}{personal}  name       {name} (chosen by them or their organisation; it \
         proves nothing)",
        lines.concat()
    )
}

/// Reports the end of a session, and chooses the exit code.
fn conclude(ended: &Value, args: &Args, world: &mut World) -> Result<(), Failure> {
    let key = &args.connection;
    if text(ended, "state") == "connected" {
        let name = shown(&account_name(&ended["account"]));
        world.output.say(&format!("Connected: {name} is {} of app {}.", key.connection, key.app));
        return Ok(());
    }
    let reason = text(ended, "reason");
    let words = match reason {
        "access_denied" => "the user or the organisation's policy refused",
        "account_mismatch" => "another account signed in than the one that this connection has",
        "admin_consent_required" => "an administrator of the user's organisation must approve the app first",
        "scope_missing" => "the user did not grant what tokenward needs to keep the connection",
        "tenant_not_allowed" => "accounts of this organisation may not connect to this app",
        "expired" => "nobody signed in or confirmed in time",
        "authority_error" => "the authority did not complete the sign-in",
        "caller_forbidden" => "the caller that started it may not connect this any more",
        "connection_paused" => "an operator paused the connection",
        "revoked" => "an operator revoked it after it was started",
        "internal" => "tokenward made a mistake; its log says more",
        _ => "",
    };
    let said = if words.is_empty() { shown(reason) } else { format!("{words} ({reason})") };
    let said_by_it = [shown(text(ended, "error")), numbers(&ended["error_codes"])];
    let authority: Vec<String> = said_by_it.into_iter().filter(|words| !words.is_empty()).collect();
    let failure = Failure::failed(match authority.is_empty() {
        true => format!("not connected: {said}"),
        false => format!("not connected: {said}; the authority said {}", authority.join(" ")),
    });
    Err(match reason {
        "account_mismatch" => failure.hint("--change-account lets another account take its place"),
        // Ours are told by the configuration alone.
        "tenant_not_allowed" if authority.is_empty() => {
            failure.hint(format!("apps.{}.tenants says whose accounts may", key.app))
        }
        "tenant_not_allowed" => failure.hint(format!(
            "the authority itself refused the account: it is of another tenant or kind than the path of \
             apps.{}.authority and the registration's *Supported account types* admit. Another account may \
             be right: the user opens the link again and chooses it",
            key.app
        )),
        "expired" => failure.hint("run the command again for a new link"),
        _ if !text(ended, "hint").is_empty() => failure.hint(shown(text(ended, "hint"))),
        _ => failure,
    })
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::cli::testing::{Ended, Scene};

    /// Runs `connect` against a daemon that gives these answers in turn, and returns the requests too.
    fn connect(answers: &[(&str, Value)], options: &[&str], input: &str) -> (Ended, Vec<String>) {
        let scene = Scene::new();
        let path = scene.path("s");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let answers: Vec<(String, String)> =
            answers.iter().map(|(status, body)| ((*status).to_owned(), body.to_string())).collect();
        let seen = asked.clone();
        let server = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                listener.set_nonblocking(true).expect("set");
                let listener = tokio::net::UnixListener::from_std(listener).expect("a listener");
                for (status, body) in answers {
                    let (mut stream, _) = listener.accept().await.expect("a connection");
                    let mut request = vec![0; 8192];
                    let length = stream.read(&mut request).await.expect("a request");
                    seen.lock().push(String::from_utf8_lossy(&request[..length]).into_owned());
                    let raw = format!(
                        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(raw.as_bytes()).await.expect("answered");
                }
            });
        });
        let endpoint = format!("unix:{path}");
        let mut args = vec!["connect", "outlook", "user-1", "--endpoint", &endpoint];
        args.extend(options);
        let ended = scene.run_with(&args, input);
        server.join().expect("every answer was asked for");
        let asked = asked.lock().clone();
        (ended, asked)
    }

    fn started() -> (&'static str, Value) {
        let session = json!({
            "id": "s1", "connect_url": "https://t.example/connect/s1", "expires_at": "2026-11-23T01:00:00Z",
        });
        ("201 Created", session)
    }

    fn account() -> Value {
        json!({ "tid": "t", "oid": "o", "username": "alice@contoso.com" })
    }

    fn state(state: &str) -> (&'static str, Value) {
        ("200 OK", json!({ "state": state, "account": account() }))
    }

    #[test]
    fn the_account_is_shown_and_confirmed_by_name() {
        let answers = [started(), state("pending"), state("awaiting_confirmation"), state("connected")];
        let (ended, asked) = connect(&answers, &["--login-hint", "alice"], "y\n");
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert_eq!(ended.out, "https://t.example/connect/s1\n");
        assert!(ended.err.contains("Connect alice@contoso.com as user-1 of app outlook?"), "{}", ended.err);
        let (tenant, name) = (ended.err.find("tenant     t"), ended.err.find("alice@contoso.com"));
        assert!(
            tenant.is_some() && tenant < name,
            "who vouches comes before what it is called: {}",
            ended.err
        );
        assert!(
            asked[0].contains("\"login_hint\":\"alice\"")
                && asked[1].starts_with("GET /v1/connect-sessions/s1?wait=25 ")
        );
        assert!(
            asked[3].starts_with("POST /v1/connect-sessions/s1/confirm ")
                && asked[3].contains("\"oid\":\"o\"")
        );

        let (ended, _) = connect(&answers[..3], &[], "");
        assert!(ended.code == 1 && ended.err.contains("not confirmed"), "{}", ended.err);

        let (ended, _) = connect(&answers, &["--yes", "--json"], "");
        assert_eq!(ended.code, 0, "{}", ended.err);
        let json = ended.json();
        assert_eq!(
            (&json["state"], &json["id"], &json["account"]),
            (&json!("connected"), &json!("s1"), &account())
        );
    }

    #[test]
    fn a_passing_failure_is_waited_out_and_a_real_one_is_told() {
        let busy = ("503 Service Unavailable", json!({ "code": "store_unavailable", "detail": "away" }));
        let failed = ("200 OK", json!({ "state": "failed", "reason": "account_mismatch" }));
        let (ended, _) = connect(&[started(), busy, failed], &["--json"], "");
        assert_eq!(ended.code, 1);
        assert!(
            ended.err.contains("trying again") && ended.err.contains("--change-account"),
            "{}",
            ended.err
        );
        assert_eq!(ended.json()["reason"], "account_mismatch");
        let failed = json!({
            "state": "failed", "reason": "authority_error", "hint": "the operator must mend it",
            "error": "invalid_client", "error_codes": [650_056],
        });
        let (ended, _) = connect(&[started(), ("200 OK", failed)], &[], "");
        assert!(ended.err.contains("the authority said invalid_client AADSTS650056"), "{}", ended.err);
        assert!(ended.err.contains("hint: the operator must mend it"), "{}", ended.err);
        // The authority's own refusal of an account is no matter of `tenants`, and ours is.
        let refused = |codes: Value| {
            let failed = json!({ "state": "failed", "reason": "tenant_not_allowed", "error_codes": codes });
            connect(&[started(), ("200 OK", failed)], &[], "").0.err
        };
        let (theirs, ours) = (refused(json!([50_020])), refused(json!([])));
        assert!(
            theirs.contains("AADSTS50020") && theirs.contains("the authority itself refused"),
            "{theirs}"
        );
        assert!(!theirs.contains("tenants says") && ours.contains("apps.outlook.tenants says"), "{ours}");
        let refused = (
            "403 Forbidden",
            json!({ "code": "caller_forbidden", "detail": "may not connect", "hint": "ask" }),
        );
        let (ended, _) = connect(&[refused], &[], "");
        assert!(ended.code == 1 && ended.err.contains("hint: ask"), "{}", ended.err);
    }

    #[test]
    fn no_wait_ends_with_the_link_and_a_product_confirms_for_itself() {
        let (ended, _) = connect(&[started()], &["--no-wait"], "");
        assert_eq!((ended.code, ended.out.as_str()), (0, "https://t.example/connect/s1\n"));
        let (ended, _) = connect(&[started()], &["--no-wait", "--json"], "");
        assert_eq!(ended.json()["state"], "pending");
        let answers = [started(), state("awaiting_confirmation"), state("connected")];
        let (ended, asked) = connect(&answers, &["--return-url", "https://p.example/"], "");
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert!(asked.iter().all(|request| !request.contains("/confirm")));
    }
}
