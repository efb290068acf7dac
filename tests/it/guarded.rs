//! A file that grants rights is used only if nobody else can have written it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock as _;
use tokenward::system::{SystemClock, SystemRandom};

use crate::check::run;
use crate::world::{ALICE, Plan, World};

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

/// A caller that may have every token, appended to a configuration.
const INTRUDER: &str = r#"
[callers.intruder]
authenticate = [{ api_keys = "intruder.keys" }]
[[callers.intruder.allow]]
app         = "outlook"
connections = ["*"]
bulk        = true
scopes      = ["*"]
"#;

fn intrude(world: &World) -> String {
    let caller = CallerName::parse("intruder").expect("a name");
    let path = world.folder.path().join("intruder.keys");
    let day = Duration::from_secs(86_400);
    let (key, _) =
        key_file::add(&path, &caller, &SystemRandom::new(), SystemClock::new().now(), day).expect("a key");
    let config = world.folder.path().join("tokenward.toml");
    let text = std::fs::read_to_string(&config).expect("text");
    std::fs::write(&config, format!("{text}{INTRUDER}")).expect("written");
    key.expose().to_owned()
}

#[tokio::test]
async fn a_configuration_that_others_can_write_to_is_not_taken_up_while_it_runs() {
    let world = Plan::default().start().await;
    world.connect("team-a/alice", ALICE).await;
    let config = world.folder.path().join("tokenward.toml");
    mode(&config, 0o666);
    let key = intrude(&world);
    let words = format!(
        "the file {} has mode 0666, so that everyone can change what is in it; fix: chmod go-w {0}",
        config.display()
    );
    world.daemon.until_logged(&words).await;
    let token = "/v1/apps/outlook/connections/team-a%2Falice/token";
    assert_eq!(world.api_as(&key, Method::GET, token, Value::Null).await.status, 401);
    // Others are served as before, and `check` says the same.
    assert_eq!(world.token("team-a/alice").await.status, 200);
    let checked = run("check", &config);
    assert!(
        checked.code == Some(2) && checked.mistakes.iter().any(|line| line.contains(&words)),
        "{}",
        checked.all
    );
    // The same words from an operator's hand are taken up.
    mode(&config, 0o644);
    world
        .until("the operator's configuration is in force", async || {
            world.api_as(&key, Method::GET, token, Value::Null).await.status == 200
        })
        .await;
    // And folders: whoever can write to one can put another file there.
    mode(world.folder.path(), 0o777);
    let words = format!(
        "the folder {} has mode 0777, so that everyone can change which files are in it",
        world.folder.path().display()
    );
    std::fs::write(&config, format!("{}\n", std::fs::read_to_string(&config).expect("text")))
        .expect("written");
    world.daemon.until_logged(&words).await;
    mode(world.folder.path(), 0o700);
    let keyring = world.folder.path().join("keyring");
    mode(&keyring, 0o777);
    world.daemon.until_logged(&format!("the folder {} has mode 0777", keyring.display())).await;
    assert_eq!(world.token("team-a/alice").await.status, 200);
}

#[tokio::test]
async fn a_start_refuses_what_others_can_write_to_as_check_does() {
    let mut world = Plan::default().start().await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let at = |name: &str| world.folder.path().join(name);
    let config = at("tokenward.toml");
    for (name, loose, good) in [
        ("tokenward.toml", 0o666, 0o644),
        ("tokenward.toml", 0o622, 0o644),
        (".", 0o777, 0o700),
        ("keyring", 0o777, 0o700),
        ("keyring", 0o1777, 0o700),
    ] {
        mode(&at(name), loose);
        let (checked, served) = (run("check", &config), run("serve", &config));
        let mut mistakes = checked.mistakes.clone();
        mistakes.retain(|line| !line.starts_with("warning: "));
        let words = format!("has mode {loose:04o}, so that everyone can change");
        assert!(
            checked.code == Some(2) && mistakes.len() == 1 && mistakes[0].contains(&words),
            "{name} {loose:o}: {}",
            checked.all
        );
        assert!(matches!(served.code, Some(1 | 2)) && served.mistakes == mistakes, "{name}: {}", served.all);
        mode(&at(name), good);
        assert_eq!(run("check", &config).code, Some(0), "{name}");
    }
}

/// Gives a file or folder the list that `setfacl -m u:61234:rwx` makes. False, and said, where the file
/// system knows none.
fn list_a_user(path: &Path) -> bool {
    let anybody = u32::MAX;
    let entries = [
        (0x01_u16, 7_u16, anybody),
        (0x02, 7, 61_234),
        (0x04, 0, anybody),
        (0x10, 7, anybody),
        (0x20, 0, anybody),
    ];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(may.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    match rustix::fs::setxattr(path, "system.posix_acl_access", &list, rustix::fs::XattrFlags::empty()) {
        Ok(()) => true,
        Err(rustix::io::Errno::OPNOTSUPP) => {
            eprintln!("NOT TESTED: the file system of {} knows no access control lists", path.display());
            false
        }
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn unlist(path: &Path, good: u32) {
    rustix::fs::removexattr(path, "system.posix_acl_access").expect("it has one");
    mode(path, good);
}

#[tokio::test]
async fn whom_an_access_list_lets_write_is_refused_at_the_start_and_while_it_runs() {
    let mut world = Plan::default().start().await;
    world.connect("team-a/alice", ALICE).await;
    let config = world.folder.path().join("tokenward.toml");
    if !list_a_user(&config) {
        return;
    }
    let words = |what: &str, path: &Path, its: &str| {
        format!(
            "the {what} {} has an access control list by which user 61234 can change {its}; \
             fix: setfacl -x u:61234 {0} (or `setfacl -b {0}`",
            path.display()
        )
    };
    let key = intrude(&world);
    world.daemon.until_logged(&words("file", &config, "what is in it")).await;
    let token = "/v1/apps/outlook/connections/team-a%2Falice/token";
    assert_eq!(world.api_as(&key, Method::GET, token, Value::Null).await.status, 401);
    unlist(&config, 0o644);
    world
        .until("the operator's configuration is in force", async || {
            world.api_as(&key, Method::GET, token, Value::Null).await.status == 200
        })
        .await;
    let keyring = world.folder.path().join("keyring");
    list_a_user(&keyring);
    world.daemon.until_logged(&words("folder", &keyring, "which files are in it")).await;
    assert_eq!(world.token("team-a/alice").await.status, 200);
    unlist(&keyring, 0o700);

    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let folder = world.folder.path().to_owned();
    for (what, path, its, good) in [
        ("file", &config, "what is in it", 0o644),
        ("folder", &folder, "which files are in it", 0o700),
        ("folder", &keyring, "which files are in it", 0o700),
    ] {
        list_a_user(path);
        let words = words(what, path, its);
        for command in ["check", "serve"] {
            let said = run(command, &config);
            let mut mistakes = said.mistakes.clone();
            mistakes.retain(|line| !line.starts_with("warning: "));
            assert!(matches!(said.code, Some(1 | 2)), "{command} {what}: {}", said.all);
            assert!(mistakes.len() == 1 && mistakes[0].contains(&words), "{command} {what}: {}", said.all);
        }
        unlist(path, good);
        assert_eq!(run("check", &config).code, Some(0), "{}", path.display());
    }
}
