//! The commands of the guides, run as they stand there, in their order and without one left out.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use entra_emulator::{AdminApproval, ConsentPolicy, Endpoint, Fault, FaultRule, RevokeKind, User};
use serde_json::{Value, json};

use crate::attacks_rights::reconfigure;
use crate::http_client::Browser;
use crate::imports::foreign;
use crate::launcher::{command, repository};
use crate::token_exchange::blocks;
use crate::world::{ALICE, BOB, CLIENT_ID, PATIENCE, Plan, SYNC, World, text, write_secret};

const TOKENWARD: &str = env!("CARGO_BIN_EXE_tokenward");

/// A guide whose commands are run against a world, in a folder of their own.
struct Guide<'a> {
    world: &'a World,
    page: &'static str,
    folder: tempfile::TempDir,
    /// Texts of the guide, and what stands in their place here.
    replaced: Vec<(&'static str, String)>,
    left: VecDeque<String>,
}

impl<'a> Guide<'a> {
    fn open(page: &'static str, world: &'a World) -> Guide<'a> {
        let folder = tempfile::tempdir().expect("a temp dir");
        let left = blocks(page, "sh").into();
        Guide { world, page, folder, replaced: Vec::new(), left }
    }

    fn replace(mut self, text: &'static str, by: impl Into<String>) -> Self {
        self.replaced.push((text, by.into()));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).expect("written");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The next block, with what is replaced in it.
    fn block(&mut self) -> String {
        let block = self.left.pop_front().unwrap_or_else(|| panic!("{} has no further command", self.page));
        self.replaced.iter().fold(block, |block, (text, by)| block.replace(text, by))
    }

    fn start(&self, shell: &str) -> Child {
        let programs = Path::new(TOKENWARD).parent().expect("a folder").display().to_string();
        let path = std::env::var("PATH").expect("there is one");
        let mut run = command("sh");
        run.args(["-ec", shell])
            .current_dir(self.folder.path())
            .env("PATH", format!("{programs}:{path}"))
            .env("TOKENWARD_CONFIG", self.world.folder.path().join("tokenward.toml"))
            .env("api", &self.world.daemon.local)
            .env("key", &self.world.key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        run.spawn().expect("sh is there")
    }

    /// Runs a block, which must succeed, and returns what it printed.
    async fn run(&self, shell: String) -> String {
        let child = self.start(&shell);
        let Output { status, stdout, stderr } = ended(child).await;
        let (printed, complaint) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        let log = self.world.daemon.log();
        assert!(status.success(), "{}: {shell}\n{status} {printed}{complaint}\n{log}", self.page);
        printed.into_owned()
    }

    async fn next(&mut self) -> String {
        let block = self.block();
        self.run(block).await
    }

    /// Every command was run.
    fn end(self) {
        assert!(self.left.is_empty(), "{}: nobody ran {:#?}", self.page, self.left);
    }
}

async fn ended(child: Child) -> Output {
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends").expect("joined").expect("it ran")
}

/// A world in which the user that runs the test is a caller, too, by the Unix socket.
fn plan() -> Plan {
    let uid = rustix::process::getuid().as_raw();
    Plan::default().sections(&format!(
        "[callers.me]\nauthenticate = [{{ unix_user = {uid} }}]\n[[callers.me.allow]]\napp = \"outlook\"\n\
         connections = [\"*\"]\nbulk = true\nscopes = [\"Mail.Read\"]\nconnect = true\n"
    ))
}

/// The claims of a user of the stand-in.
fn claims(world: &World, user: &str) -> (String, Value) {
    let token = world.entra.user_token(user, crate::world::CLIENT_ID, &json!({})).expect("known");
    let payload = token.split('.').nth(1).expect("a payload");
    let payload = URL_SAFE_NO_PAD.decode(payload).expect("Base64");
    (token, serde_json::from_slice(&payload).expect("JSON"))
}

#[tokio::test]
async fn the_readme_s_three_calls_lead_to_a_token() {
    let world = plan().start().await;
    let mut guide = Guide::open("README.md", &world)
        .replace("http://127.0.0.1:7070", &world.daemon.local)
        .replace("$(cat /tmp/try/cli.key)", &world.key);
    guide.left.retain(|block| block.contains("/confirm "));
    let calls = guide.block();
    guide.end();
    let mut running = Guide::open("README.md", &world).start(&calls);
    let mut lines = BufReader::new(running.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let link = lines.next().expect("a link");
    world.entra.sign_in_as(ALICE);
    world.sign_in(&mut Browser::default(), &link).await;
    let rest = tokio::task::spawn_blocking(move || lines.collect::<String>()).await.expect("joined");
    let finished = ended(running).await;
    assert!(finished.status.success(), "{rest}{}", String::from_utf8_lossy(&finished.stderr));
    assert!(rest.contains("connected") && rest.contains(&world.access_token("user-4712").await), "{rest}");
}

#[tokio::test]
async fn the_first_service_s_commands_work() {
    let world = plan().start().await;
    world.connect("user-4711", ALICE).await;
    let key = world.folder.path().join("service.key");
    write_secret(&key, &world.key);
    let examples = repository().join("examples").display().to_string();
    let mut guide = Guide::open("docs/first-service.md", &world)
        .replace("http://127.0.0.1:7070", &world.daemon.local)
        .replace("/tmp/try/cli.key", key.display().to_string())
        .replace("http://127.0.0.1:8400", world.entra.base_url())
        .replace(" examples/", format!(" {examples}/"))
        .replace(
            "/run/tokenward/tokenward.sock",
            world.folder.path().join("local.sock").display().to_string(),
        );
    let first = guide.block();
    assert!(guide.run(first.clone()).await.contains("Your invoice"));
    let environment = first.lines().filter(|line| line.starts_with("export")).collect::<Vec<_>>().join("\n");
    // Each answer to see, with the change that the page says.
    let answers = guide.block();
    let [begin, forbidden, limited, revoked] = &answers.split("\n\n").collect::<Vec<_>>()[..] else {
        panic!("{answers}")
    };
    let run = async |part: &str| guide.run(format!("{environment}\n{begin}\n{part}")).await;
    let (all, one) = ("scopes      = [\"*\"]", "scopes      = [\"Mail.Read\"]");
    reconfigure(&world, all, one).await;
    assert!(run(forbidden).await.contains("caller_forbidden"));
    reconfigure(&world, one, all).await;
    let (unlimited, limit) = ("[callers.mail-sync]\n", "[callers.mail-sync]\nconnection_rate_limit = 1\n");
    reconfigure(&world, unlimited, limit).await;
    let statuses = run(limited).await;
    assert!(statuses.starts_with("200\n") && statuses.contains("429\n"), "{statuses}");
    reconfigure(&world, limit, unlimited).await;
    let said = run(revoked).await;
    assert!(said.contains("reauthorization_required") && said.contains("connect_url"), "{said}");
    let asked = json!({ "app": "outlook", "connection": "user-4711" });
    let session = world.start_session(asked).await;
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    // The program in curl has a test of its own.
    assert!(guide.block().starts_with("#!/bin/sh\n"));
    let polls = format!("{environment}\n{}", guide.block());
    for expected in ["200\n", "304\n"] {
        assert_eq!(guide.run(polls.clone()).await, expected);
        let kept: Value = serde_json::from_str(&guide.read("token.json")).expect("JSON");
        assert_eq!(text(&kept, "access_token"), world.access_token("user-4711").await);
    }
    let by_socket: Value = serde_json::from_str(&guide.next().await).expect("JSON");
    assert_eq!(text(&by_socket, "access_token"), world.access_token("user-4711").await);
    guide.end();
}

#[tokio::test]
async fn users_move_by_the_guide_and_the_old_system_serves_the_others() {
    let world = plan().start().await;
    let users = [("user-1", ALICE), ("user-2", BOB)].map(|(connection, user)| {
        let (_, claims) = claims(&world, user);
        format!("{connection}\t{}\t{}\t{user}\n", text(&claims, "tid"), text(&claims, "oid"))
    });
    let mut guide = Guide::open("docs/migrate.md", &world);
    guide.write("users.tsv", &users.concat());
    assert_eq!(guide.next().await, "");
    let links = guide.read("links.tsv");
    let links: Vec<Vec<&str>> = links.lines().map(|line| line.split('\t').collect()).collect();
    let [alice, bob] = &links[..] else { panic!("{links:?}") };
    assert_eq!((alice[0], bob[0], alice.len()), (ALICE, BOB, 3));

    // One of them moves.
    world.sign_in(&mut Browser::default(), bob[1]).await;
    assert_eq!(world.token("user-2").await.status, 200, "nothing has to be confirmed");

    let listed = guide.next().await;
    assert_eq!((guide.read("moved.txt").as_str(), guide.read("left.txt").as_str()), ("user-2\n", "user-1\n"));
    assert!(listed.contains("user-1") && listed.contains("pending"), "{listed}");

    // The code of the services.
    let [code] = &blocks("docs/migrate.md", "python")[..] else { panic!("one example") };
    let own = format!(
        "def token_of_the_old_system(connection):\n    return 'old ' + connection\n\n\
         for connection in ('user-1', 'user-2'):\n    \
         print(access_token(connection, '{}', '{}'))\n",
        world.key, world.daemon.local
    );
    let tries = |code: String| guide.run(format!("python3 - <<'PROGRAM'\n{code}\nPROGRAM"));
    let printed = tries(format!("{code}\n{own}")).await;
    assert_eq!(printed, format!("old user-1\n{}\n", world.access_token("user-2").await));
    // Whoever has moved is not served by the old system again.
    world.entra.revoke_user(BOB, RevokeKind::GrantRevoked).expect("known");
    world.outlive_tokens();
    world.until("it is refused", async || world.token("user-2").await.status == 409).await;
    let refused = own.replace("print(access_token(", "import contextlib\n    print(repr(outcome(");
    let outcome = "def outcome(*arguments):\n    try:\n        return access_token(*arguments)\n    \
                   except urllib.error.HTTPError as error:\n        return error.code\n\n";
    let refused = refused.replace("'))\n", "')))\n");
    let printed = tries(format!("{code}\n{outcome}{refused}")).await;
    assert_eq!(printed, "'old user-1'\n409\n");
    guide.end();
}

#[tokio::test]
async fn users_of_nango_are_listed_by_the_guide() {
    let world = plan().start().await;
    let (id_token, claims) = claims(&world, ALICE);
    let mut guide = Guide::open("docs/from-nango.md", &world);
    let refresh_token = foreign(&world, "user-4711", ALICE).refresh_token;
    let credentials =
        json!({ "type": "OAUTH2", "refresh_token": refresh_token, "raw": { "id_token": id_token } });
    let answer = json!({ "connection_id": "user-4711", "credentials": credentials });
    guide.write("connection-1.json", &format!("{answer:#}"));
    guide.next().await;
    let expected = format!("user-4711\t{}\t{}\t{ALICE}\n", text(&claims, "tid"), text(&claims, "oid"));
    assert_eq!(guide.read("users.tsv"), expected);
    imports(&world, guide, "user-4711").await;
}

/// Runs the guide's last command as it stands, which only checks, and once more without that.
async fn imports(world: &World, guide: Guide<'_>, connection: &str) {
    let mut guide = guide.replace("--caller product", format!("--caller {SYNC}"));
    let block = guide.block();
    guide.run(block.clone()).await;
    assert_eq!(world.token(connection).await.status, 404);
    assert!(block.contains("--dry-run"), "{block}");
    guide.run(block.replace("--dry-run", "--yes")).await;
    world.access_token(connection).await;
    guide.end();
}

#[tokio::test]
async fn a_cache_of_msal_is_imported_by_the_guide() {
    let world = plan().start().await;
    let user = User::work(ALICE);
    let home = format!("{}.{}", user.object_id(), user.tenant_id());
    let whose = json!({ "home_account_id": home, "environment": "login.microsoftonline.com" });
    let with = |more: Value| {
        let mut all = whose.clone();
        all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        all
    };
    let held = with(json!({ "client_id": CLIENT_ID, "secret": foreign(&world, "", ALICE).refresh_token }));
    let account = with(json!({ "realm": user.tenant_id(), "local_account_id": user.object_id(),
        "username": ALICE }));
    let mut guide = Guide::open("docs/from-msal.md", &world);
    let cache = json!({ "RefreshToken": { "one": held }, "Account": { "one": account } });
    guide.write("cache-1.json", &cache.to_string());
    guide.next().await;
    imports(&world, guide, user.object_id()).await;
}

#[tokio::test]
async fn entries_of_vaults_plugin_are_imported_by_the_guide() {
    let world = plan().start().await;
    let refresh_token = foreign(&world, "", ALICE).refresh_token;
    let entry = json!({ "access_token": "a", "refresh_token": refresh_token, "auth_server_name": "msft" });
    let raw = json!({ "name": "team-a/alice", "data": { "value": entry.to_string() } });
    let mut guide = Guide::open("docs/vault.md", &world);
    guide.write("oauthapp.jsonl", &raw.to_string());
    // (What `bao` reads is tested with the dialect.)
    assert!(guide.block().contains("bao read"));
    imports(&world, guide, "team-a/alice").await;
}

/// Runs the command of docs/from-msal.md on the cache that MSAL itself wrote into a folder.
pub(crate) fn users_of_msals_caches_are_listed(folder: &Path) {
    let [block, ..] = &blocks("docs/from-msal.md", "sh")[..] else { panic!("a command") };
    let mut run = command("sh");
    let output = run.args(["-ec", block]).current_dir(folder).output().expect("sh is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cache = std::fs::read_to_string(folder.join("cache-1.json")).expect("MSAL's cache");
    let cache: Value = serde_json::from_str(&cache).expect("JSON");
    let accounts = cache["Account"].as_object().expect("accounts");
    let account = accounts.values().next().expect("one account");
    // MSAL keeps both ids apart as well, for an account of its own tenant.
    let (oid, tid) = (text(account, "local_account_id"), text(account, "realm"));
    let users = std::fs::read_to_string(folder.join("users.tsv")).expect("the list");
    assert_eq!(users, format!("{oid}\t{tid}\t{oid}\t{ALICE}\n"));
}

#[tokio::test]
async fn keycloak_s_guide_asks_with_a_bearer() {
    let world = plan().start().await;
    world.connect("user-4711", ALICE).await;
    let mut guide = Guide::open("docs/from-keycloak.md", &world);
    // Any credential of a caller; tests of callers with JWTs have the issuer's own.
    let block = guide.block();
    let answer = guide.run(format!("service_token=$key\n{block}")).await;
    assert!(answer.contains(&world.access_token("user-4711").await), "{answer}");
    guide.end();
}

#[tokio::test]
async fn a_shared_mailbox_s_program_logs_in_with_the_service_account_s_token() {
    let world = plan().start().await;
    // The account is confirmed by hand in the guide, and by a flag here.
    let mut guide = Guide::open("docs/from-mailbox-password.md", &world)
        .replace("svc-info@contoso.com\n", format!("{ALICE} --yes\n"));
    let connect = guide.block();
    let mut connects = guide.start(&connect);
    let mut lines = BufReader::new(connects.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let link = lines.find(|line| line.contains("/connect/")).expect("a link");
    world.entra.sign_in_as(ALICE);
    world.sign_in(&mut Browser::default(), &link).await;
    let connected = ended(connects).await;
    assert!(connected.status.success(), "{}", String::from_utf8_lossy(&connected.stderr));

    let printed = guide.next().await;
    let [sasl, plain] = &printed.lines().collect::<Vec<_>>()[..] else { panic!("{printed}") };
    let token = world.access_token("info").await;
    let sasl = STANDARD.decode(sasl).expect("Base64");
    let expected = format!("user=info@contoso.com\x01auth=Bearer {token}\x01\x01");
    assert_eq!((String::from_utf8_lossy(&sasl).as_ref(), *plain), (expected.as_str(), token.as_str()));
    guide.end();
}

#[tokio::test]
async fn administrators_of_many_tenants_are_asked_by_the_guide() {
    let world = plan().start().await;
    let (_, fabrikam) = claims(&world, BOB);
    let mut guide = Guide::open("docs/admin-consent.md", &world);
    guide.write("tenants.txt", "contoso.example\nfabrikam.example\n");
    guide.next().await;
    let links = guide.read("links.tsv");
    let of = |tenant: &str| links.lines().filter(|line| line.starts_with(&format!("{tenant}\thttp"))).count();
    assert_eq!((of("contoso.example"), of("fabrikam.example"), links.lines().count()), (1, 1, 2), "{links}");

    // Two users of one tenant wait for its administrator.
    world.connect("bob", BOB).await;
    world.connect("bob-2", BOB).await;
    world.entra.revoke_user(BOB, RevokeKind::ConsentRemoved).expect("known");
    world.entra.set_consent_policy(None, ConsentPolicy::AdminRequired).expect("known");
    world.entra.change_settings(|settings| settings.admin_approval = AdminApproval::Redirect);
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::aadsts(90094)));
    world.outlive_tokens();
    for connection in ["bob", "bob-2"] {
        world.until("it waits", async || world.token(connection).await.status == 409).await;
    }
    let waiting = guide.next().await;
    let waiting: Vec<&str> = waiting.split_whitespace().collect();
    assert_eq!(waiting, ["2", text(&fabrikam, "tid")]);
    // A third is refused at the sign-in.
    let session = world.start_session(json!({ "app": "outlook", "connection": "bob-3" })).await;
    world.entra.sign_in_as(BOB);
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    let failed = guide.next().await;
    assert!(failed.contains("bob-3") && failed.contains("admin_consent_required"), "{failed}");
    guide.end();
}
