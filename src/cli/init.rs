//! `init`: makes a directory with everything that `serve` needs, except the app's own credential.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Failure, World, shell_word};
use crate::callers::{UnixUser, key_file};
use crate::config::{self, AppConfig, LONGEST_SOCKET_PATH, PLACEHOLDER_CLIENT_ID};
use crate::domain::id::CallerName;
use crate::keyring::files;

/// In this directory, `init` uses the packaged daemon's paths: systemd makes the places for store and
/// sockets.
const SYSTEM_DIRECTORY: &str = "/etc/tokenward";
/// The packaged unit's audit log, which is kept and rotated.
const SYSTEM_AUDIT: &str = "/var/log/tokenward/audit.jsonl";
/// The first caller.
const CALLER: &str = "cli";
/// The first app.
const APP: &str = "outlook";

/// A port that can be configured: 0 would be another one at each start.
fn port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

/// What the configuration begins with.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The directory to make; nothing in it is overwritten
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The Application (client) ID, from the app's overview page at Entra; can be written into the file later
    #[arg(long, value_name = "ID", default_value = PLACEHOLDER_CLIENT_ID, hide_default_value = true)]
    client_id: String,
    /// The authority: `organizations` takes work and school accounts, `common` personal ones too, a tenant id
    /// its own
    #[arg(long, value_name = "URL", default_value = "https://login.microsoftonline.com/organizations/v2.0")]
    authority: String,
    /// The tenant in which the app is registered, by id or domain: its own credentials are verified there
    #[arg(long, value_name = "TENANT")]
    home_tenant: Option<String>,
    /// The port for browsers, on this machine; without --base-url it is the one of the redirect URI, too
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = port())]
    public_port: u16,
    /// The port for callers, on this machine
    #[arg(long, value_name = "PORT", default_value_t = 7070, value_parser = port())]
    local_port: u16,
    /// The port for metrics and probes, on this machine
    #[arg(long, value_name = "PORT", default_value_t = 9464, value_parser = port())]
    ops_port: u16,
    /// How browsers reach it, such as https://tokens.contoso.com; else http://localhost and the port
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// What connecting asks for
    #[arg(
        long,
        value_name = "SCOPES",
        default_value = "offline_access openid profile Mail.Read Calendars.Read"
    )]
    scopes: String,
    /// Print {config, keyring_key, caller, key_file, redirect_uri, next}
    #[arg(long)]
    json: bool,
    /// It reads no configuration: the option of all commands is not offered here, and refused.
    #[arg(long, hide = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: &Args, world: &mut World) -> Result<(), Failure> {
    if args.config.is_some() {
        return Err(Failure::usage("init reads no configuration: it makes one, in DIR/tokenward.toml")
            .hint("leave --config out"));
    }
    let layout = Layout::new(&args.directory)?;
    let uid = rustix::process::geteuid().as_raw();
    let user = user_name(uid, &fs::read_to_string("/etc/passwd").unwrap_or_default());
    let text = layout.render(args, &user);
    // Wrong options are found before anything is created.
    let loaded = config::load(&text, &Default::default(), &layout.config).map_err(|errors| {
        let mistakes: Vec<String> =
            errors.mistakes.iter().map(|mistake| format!("{}: {}", mistake.key, mistake.problem)).collect();
        Failure::usage(mistakes.join("\n"))
    })?;
    layout.nothing_is_there()?;

    let mut made = Made::default();
    let keyring_key = match layout.make(&text, world, &mut made) {
        Ok(id) => id,
        Err(failure) => {
            made.undo();
            return Err(failure);
        }
    };

    let redirect_uri = loaded.config.redirect_uri(APP).unwrap_or_default();
    let config = shell_word(&layout.config);
    let lacks_home = loaded.config.apps.get(APP).is_some_and(AppConfig::lacks_home_tenant);
    let next = next_steps(args, &layout, &config, &redirect_uri, lacks_home);
    if args.json {
        world.output.json(&json!({
            "config": layout.config.display().to_string(),
            "keyring_key": keyring_key,
            "caller": CALLER,
            "key_file": layout.cli_key.display().to_string(),
            "redirect_uri": redirect_uri,
            "next": next,
        }))?;
    } else {
        world.output.data(&format!(
            "Made {}.\n  sealing key  {keyring_key} in {}: back it up, nothing opens without it\n  \
             caller       {CALLER}: the user {user}, or the API key in {}\n\nNext:",
            layout.config.display(),
            layout.keyring.display(),
            layout.cli_key.display(),
        ))?;
        for (at, step) in next.iter().enumerate() {
            world.output.data(&format!("  {}. {step}", at + 1))?;
        }
    }
    if uid == 0 && !layout.system {
        world.output.say(&format!(
            "note: everything in {} belongs to root now. If the daemon runs as another user: chown -R USER: \
             {}",
            layout.directory.display(),
            shell_word(&layout.directory)
        ));
    }
    Ok(())
}

fn next_steps(
    args: &Args,
    layout: &Layout,
    config: &str,
    redirect_uri: &str,
    lacks_home: bool,
) -> [String; 3] {
    let lacks_id = args.client_id == PLACEHOLDER_CLIENT_ID;
    let file = layout.config.display();
    let from_there = match (lacks_id, lacks_home) {
        (true, true) => format!(
            ", and put from its overview page the client id and, as `home_tenant`, the Directory (tenant) ID \
             into {file}"
        ),
        (true, false) => format!(", and put its client id into {file}"),
        (false, true) => {
            format!(", and put from its overview page the Directory (tenant) ID as `home_tenant` into {file}")
        }
        (false, false) => String::new(),
    };
    let secret = layout.credentials.join("2026-11@2027-05-20.secret");
    [
        format!(
            "Register the redirect URI {redirect_uri} for the app at Entra, platform Web \
             (docs/app-registration.md){from_there}."
        ),
        format!(
            "Put the app's client secret into {} (mode 0600; id and expiry are in the name), or a \
             certificate with its key into {}.",
            secret.display(),
            layout.credentials.join("main.pem").display()
        ),
        if layout.system {
            format!(
                "Run `chown -R tokenward:tokenward {SYSTEM_DIRECTORY}`, since the packaged daemon runs as \
                 that user, then `tokenward check`, `systemctl enable --now tokenward` and `tokenward \
                 connect {APP} me`."
            )
        } else {
            format!(
                "Run `tokenward serve --config {config}` and, beside it, `tokenward connect {APP} me \
                 --config {config}`."
            )
        },
    ]
}

/// All paths.
struct Layout {
    directory: PathBuf,
    config: PathBuf,
    keyring: PathBuf,
    credentials: PathBuf,
    callers: PathBuf,
    cli_key: PathBuf,
    /// True if paths are the packaged daemon's, and not below the directory.
    system: bool,
}

impl Layout {
    fn new(directory: &Path) -> Result<Self, Failure> {
        let text = directory.to_str().filter(|text| !text.is_empty() && !text.chars().any(char::is_control));
        if text.is_none() {
            return Err(Failure::usage("the directory's name must be UTF-8 text without control characters"));
        }
        // Without dots and doubled slashes; `./t` is `t`.
        let parts = directory.components().filter(|part| *part != std::path::Component::CurDir);
        let directory: PathBuf = match parts.collect::<PathBuf>() {
            plain if plain.as_os_str().is_empty() => PathBuf::from("."),
            plain => plain,
        };
        let layout = Layout {
            config: directory.join("tokenward.toml"),
            keyring: directory.join("keyring"),
            credentials: directory.join("credentials").join(APP),
            callers: directory.join("callers"),
            cli_key: directory.join("cli.key"),
            system: directory == Path::new(SYSTEM_DIRECTORY),
            directory,
        };
        let socket = layout.directory.join("run/tokenward.sock");
        if !layout.system && socket.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(Failure::usage(format!(
                "{} would be longer than the {LONGEST_SOCKET_PATH} bytes that a socket's path can have",
                socket.display()
            ))
            .hint("choose a shorter directory"));
        }
        Ok(layout)
    }

    /// Returns a path as written in the file: absolute, or relative to the file.
    fn value(&self, below: &str) -> String {
        let path =
            if self.directory.is_absolute() { self.directory.join(below) } else { PathBuf::from(below) };
        quoted(&path.display().to_string())
    }

    /// Returns the packaged daemon's path, if it has one of its own.
    fn value_or(&self, system: &str, below: &str) -> String {
        if self.system { quoted(system) } else { self.value(below) }
    }

    fn nothing_is_there(&self) -> Result<(), Failure> {
        let mut planned = vec![&self.config, &self.keyring, &self.credentials, &self.callers, &self.cli_key];
        let (data, run) = (self.directory.join("data"), self.directory.join("run"));
        if !self.system {
            planned.extend([&data, &run]);
        }
        // Links are not followed: a dangling link exists too.
        let there: Vec<String> = planned
            .into_iter()
            .filter(|path| fs::symlink_metadata(path).is_ok())
            .map(|path| path.display().to_string())
            .collect();
        if there.is_empty() {
            return Ok(());
        }
        Err(Failure::failed(format!("{} exists already, and init overwrites nothing", there.join(", ")))
            .hint(format!(
                "if it was made before, go on with it: `tokenward check --config {}` says what is still \
                 missing; else choose another directory, or move these away",
                shell_word(&self.config)
            )))
    }

    /// Creates everything, the configuration last, so that its presence shows that the rest is complete.
    /// Returns the sealing key's id.
    fn make(&self, text: &str, world: &mut World, made: &mut Made) -> Result<String, Failure> {
        let now = world.clock.now();
        if !self.directory.exists() {
            made.directory(&self.directory)?;
        }
        made.directory(&self.keyring)?;
        let key = files::add(&self.keyring, &*world.random, now)
            .map_err(|error| Failure::failed(error.to_string()))?;
        made.0.push(self.keyring.join(format!("{}.key", key.id)));

        made.directory(&self.callers)?;
        let keys = self.callers.join(format!("{CALLER}.keys"));
        let caller = CallerName::parse(CALLER).expect("the first caller's name is a name");
        let added = key_file::add(&keys, &caller, &*world.random, now, key_file::DEFAULT_LIFETIME);
        made.0.push(keys);
        let (api_key, _) = added.map_err(|error| Failure::failed(error.to_string()))?;
        made.file(&self.cli_key, &zeroize::Zeroizing::new(format!("{}\n", api_key.expose())))?;

        let credentials = self.credentials.parent().unwrap_or(&self.directory);
        if !credentials.exists() {
            made.directory(credentials)?;
        }
        made.directory(&self.credentials)?;
        // Beside the directory and not in it, where every file counts as a credential.
        let readme = credentials.join("README");
        if fs::symlink_metadata(&readme).is_err() {
            made.file(&readme, README)?;
        }
        if !self.system {
            made.directory(&self.directory.join("data"))?;
            made.directory(&self.directory.join("run"))?;
        }
        made.file(&self.config, text)?;
        Ok(key.id)
    }

    fn render(&self, args: &Args, user: &str) -> String {
        let scopes: Vec<String> =
            args.scopes.split([' ', ',']).filter(|scope| !scope.is_empty()).map(quoted).collect();
        let audit = if self.system { quoted(SYSTEM_AUDIT) } else { self.value("audit.log") };
        format!(
            r#"# tokenward. `tokenward check` finds mistakes; docs/configuration.md explains every key.

[store]
kind = "embedded" # one process, on its own disk; "redis" for several replicas
path = {store}

[sealing]
keyring = {keyring} # back it up: without it nothing in the store can be opened

[listen.public]
address = "127.0.0.1:{public_port}"
# How browsers reach it. Anything but localhost is https, through an ingress or with a [listen.public.tls].
base_url = {base_url}

[[listen.local]] # for callers
unix = {local}
[[listen.local]]
address = "127.0.0.1:{local_port}"

[[listen.admin]] # for operators and the commands
unix = {admin}

[listen.ops] # metrics and probes
address = "127.0.0.1:{ops_port}"

[audit]
path = {audit}

[apps.{APP}]
client_id = {client_id}
authority = {authority}
scopes = [{scopes}]
# tenants = ["*", "personal"] # "*" is every work or school tenant; personal accounts need `common`, too
{home_tenant} # where the app is registered: `credentials verify` asks there about a new client credential
# One file a credential: 2026-11@2027-05-20.secret (id, expiry), main.pem (certificate and key). Mode 0600.
credentials_dir = {credentials}

# The first caller: you. Give each service a caller of its own, with no more than it needs.
[callers.{CALLER}]
authenticate = [{{ unix_user = {user} }}, {{ api_keys = {keys} }}]
[[callers.{CALLER}.allow]]
app = "{APP}"
connections = ["*"]
bulk = true # says that every connection is meant
scopes = ["*"]
connect = true
"#,
            public_port = args.public_port,
            local_port = args.local_port,
            ops_port = args.ops_port,
            base_url = match &args.base_url {
                Some(url) => quoted(url),
                None => quoted(&format!("http://localhost:{}", args.public_port)),
            },
            store = self.value_or("/var/lib/tokenward", "data"),
            keyring = self.value("keyring"),
            local = self.value_or("/run/tokenward/tokenward.sock", "run/tokenward.sock"),
            admin = self.value_or("/run/tokenward/admin.sock", "run/admin.sock"),
            client_id = quoted(&args.client_id),
            authority = quoted(&args.authority),
            scopes = scopes.join(", "),
            home_tenant = match &args.home_tenant {
                Some(tenant) => format!("home_tenant = {}", quoted(tenant)),
                None => "# home_tenant = \"contoso.onmicrosoft.com\"".to_owned(),
            },
            credentials = self.value(&format!("credentials/{APP}")),
            user =
                if user.bytes().all(|byte| byte.is_ascii_digit()) { user.to_owned() } else { quoted(user) },
            keys = self.value(&format!("callers/{CALLER}.keys")),
        )
    }
}

const README: &str = "The client credentials of the apps, one directory an app, one file a credential. The \
    file's name says what it is:

  2026-11@2027-05-20.secret   a client secret (the value, not its id) that expires on 2027-05-20
  main.pem                    a certificate and its private key
  pod.assertion               an assertion that somebody else issues and renews

Mode 0600, owner: the daemon's user. To replace one, put the new one beside it, and remove the old one once \
the new one works.
";

/// Formats a TOML basic string: JSON's escapes are valid TOML, and only one more character needs escaping.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Returns the user's name if it identifies this user, otherwise the number.
fn user_name(uid: u32, passwd: &str) -> String {
    passwd
        .lines()
        .filter_map(|line| line.split(':').next())
        .find(|name| {
            !name.is_empty()
                && !name.bytes().any(|byte| byte.is_ascii_whitespace() || byte == b'/')
                && UnixUser::resolve(name, passwd) == Ok(UnixUser { uid })
        })
        .map_or_else(|| uid.to_string(), str::to_owned)
}

/// Everything created so far, in this order.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn directory(&mut self, path: &Path) -> Result<(), Failure> {
        // Parent directories are created with it, and stay if this fails.
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| cannot_make(parent, &error))?;
        }
        DirBuilder::new().mode(0o700).create(path).map_err(|error| cannot_make(path, &error))?;
        self.0.push(path.to_owned());
        Ok(())
    }

    fn file(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| cannot_make(path, &error))?;
        self.0.push(path.to_owned());
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| cannot_make(path, &error))
    }

    /// Removes what was created. A directory with other content by now stays.
    fn undo(self) {
        for path in self.0.iter().rev() {
            let _ = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        }
    }
}

fn cannot_make(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot make {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::testing::Scene;

    #[test]
    fn what_init_makes_is_private_and_named() {
        let scene = Scene::new();
        let directory = scene.path("deep/t");
        let made =
            scene.run(&["init", &directory, "--client-id", "11111111-2222-3333-4444-555555555555", "--json"]);
        assert_eq!(made.code, 0, "{}", made.err);
        let made = made.json();
        let at = |name: &str| Path::new(&directory).join(name);
        assert_eq!(made["config"], at("tokenward.toml").to_str().expect("UTF-8"));
        assert_eq!(made["redirect_uri"], "http://localhost:8080/callback/outlook");
        assert_eq!(made["next"].as_array().map(Vec::len), Some(3));
        for (name, mode) in [
            ("", 0o700),
            ("tokenward.toml", 0o600),
            ("keyring", 0o700),
            ("data", 0o700),
            ("run", 0o700),
            ("credentials/outlook", 0o700),
            ("callers/cli.keys", 0o600),
            ("cli.key", 0o600),
        ] {
            let found = fs::metadata(at(name)).expect(name).permissions().mode() & 0o777;
            assert_eq!(found, mode, "{name}");
        }
        let key = fs::read_to_string(at("cli.key")).expect("a key");
        assert!(key.starts_with("twk_cli_") && !made.to_string().contains("twk_"));
        let text = fs::read_to_string(at("tokenward.toml")).expect("text");
        assert!(text.contains(&format!("path = \"{directory}/data\"")), "absolute paths\n{text}");
        let check = scene.run(&["check", "--config", at("tokenward.toml").to_str().expect("UTF-8")]);
        assert_eq!(check.code, 0, "{}", check.err);
        assert_eq!(check.err.lines().count(), 2, "only what is still missing is a warning: {}", check.err);
        for missing in ["without `home_tenant`", "holds no client credential yet"] {
            assert!(check.err.contains(missing), "{}", check.err);
        }
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_half_made_stays() {
        let scene = Scene::new();
        let directory = scene.path("t");
        assert_eq!(scene.run(&["init", &directory]).code, 0);
        let before = fs::read(scene.path("t/tokenward.toml")).expect("text");
        let again = scene.run(&["init", &directory]);
        assert!(again.code == 1 && again.err.contains("overwrites nothing"), "{}", again.err);
        assert_eq!(fs::read(scene.path("t/tokenward.toml")).expect("text"), before);

        fs::create_dir(scene.path("other")).expect("a directory");
        scene.file("other/data", "something", 0o600);
        let other = scene.run(&["init", &scene.path("other")]);
        assert!(other.code == 1 && other.err.contains("other/data"), "{}", other.err);
        assert_eq!(fs::read_dir(scene.path("other")).expect("a directory").count(), 1);

        // A file in place of a directory is found only during creation.
        fs::create_dir(scene.path("half")).expect("a directory");
        scene.file("half/credentials", "in the way", 0o600);
        assert_eq!(scene.run(&["init", &scene.path("half")]).code, 1);
        assert_eq!(fs::read_dir(scene.path("half")).expect("a directory").count(), 1);
    }

    #[test]
    fn ports_and_the_address_for_browsers_are_options() {
        let scene = Scene::new();
        let directory = scene.path("t");
        let ports = ["--public-port", "18080", "--local-port", "17070", "--ops-port", "19464"];
        let made = scene.run(&[&["init", &directory, "--json"][..], &ports].concat());
        assert_eq!(made.json()["redirect_uri"], "http://localhost:18080/callback/outlook", "{}", made.err);
        let path = scene.path("t/tokenward.toml");
        let config = config::load_file(Path::new(&path), &Default::default()).expect("good").config;
        assert_eq!((config.listen.public.address.port(), config.listen.ops.address.port()), (18080, 19464));
        let local = &config.listen.local[1];
        assert!(
            matches!(local, config::Listener::Tcp { address, .. } if address.port() == 17070),
            "{local:?}"
        );
        let other = scene.path("u");
        let made = scene.run(&["init", &other, "--base-url", "https://tokens.contoso.com", "--json"]);
        assert_eq!(
            made.json()["redirect_uri"],
            "https://tokens.contoso.com/callback/outlook",
            "{}",
            made.err
        );
        assert_eq!(scene.run(&["init", &scene.path("v"), "--ops-port", "0"]).code, 2);
    }

    /// The next steps name what the file lacks, so that `credentials verify` works afterwards.
    #[test]
    fn what_is_missing_is_among_the_next_steps() {
        let scene = Scene::new();
        let id = ["--client-id", "11111111-2222-3333-4444-555555555555"];
        let of_one = ["--authority", "https://login.microsoftonline.com/contoso.com/v2.0"];
        for (at, options, client_id, home) in [
            ("a", vec![], true, true),
            ("b", id.to_vec(), false, true),
            ("c", [&id[..], &["--home-tenant", "contoso.com"]].concat(), false, false),
            ("d", [&id[..], &of_one].concat(), false, false),
        ] {
            let directory = scene.path(at);
            let made = scene.run(&[&["init", &directory, "--json"][..], &options].concat());
            let first = made.json()["next"][0].as_str().unwrap_or_default().to_owned();
            let says = (first.contains("client id"), first.contains("`home_tenant`"));
            assert_eq!(says, (client_id, home), "{options:?}: {first}");
        }
    }

    #[test]
    fn a_configuration_is_neither_offered_nor_taken() {
        let scene = Scene::new();
        let help = scene.run(&["init", "--help"]);
        assert!(!help.out.contains("--config"), "{}", help.out);
        assert!(scene.run(&["check", "--help"]).out.contains("--config"));
        let directory = scene.path("t");
        for args in [["init", &directory, "--config", "x"], ["--config", "x", "init", &directory]] {
            let refused = scene.run(&args);
            assert_eq!(refused.code, 2, "{}", refused.err);
            assert!(refused.err.contains("leave --config out"), "{}", refused.err);
        }
        assert!(!Path::new(&directory).exists());
    }

    #[test]
    fn wrong_options_make_nothing() {
        let scene = Scene::new();
        let directory = scene.path("t");
        for (option, value, expected) in [
            ("--authority", "login.microsoftonline.com", "apps.outlook.authority"),
            ("--scopes", "*", "apps.outlook.scopes"),
            ("--client-id", "", "apps.outlook.client_id"),
        ] {
            let refused = scene.run(&["init", &directory, option, value]);
            assert!(refused.code == 2 && refused.err.contains(expected), "{}", refused.err);
        }
        let long = scene.path(&"x".repeat(120));
        assert_eq!(scene.run(&["init", &long]).code, 2);
        assert!(!Path::new(&directory).exists());
    }

    #[test]
    fn the_packaged_daemon_s_directory_has_the_packaged_daemon_s_places() {
        let args = |directory: &str| Args {
            directory: directory.into(),
            client_id: "a\"b".into(),
            authority: "https://login.microsoftonline.com/common/v2.0".into(),
            home_tenant: Some("contoso.com".into()),
            public_port: 8080,
            local_port: 7070,
            ops_port: 9464,
            base_url: None,
            scopes: "offline_access,openid Mail.Read".into(),
            json: false,
            config: None,
        };
        let render = |directory: &str| {
            let layout = Layout::new(Path::new(directory)).expect("a layout");
            let text = layout.render(&args(directory), "1000");
            config::load(&text, &Default::default(), &layout.config).expect("good").config
        };
        let system = render("/etc/tokenward/");
        let default = config::Config::default();
        assert_eq!(system.store, default.store);
        assert_eq!(system.listen, default.listen);
        assert_eq!(system.sealing, default.sealing);
        assert_eq!(system.audit.sinks, [config::AuditSink::File(SYSTEM_AUDIT.into())]);
        assert_eq!(system.apps[APP].client_id, "a\"b");
        assert_eq!(system.apps[APP].home_tenant.as_deref(), Some("contoso.com"));
        assert_eq!(system.apps[APP].scopes, ["offline_access", "openid", "Mail.Read"]);
        let last = |directory: &str| {
            let layout = Layout::new(Path::new(directory)).expect("a layout");
            next_steps(&args(directory), &layout, "t/tokenward.toml", "", false)[2].clone()
        };
        let step = last("/etc/tokenward");
        for part in ["chown -R tokenward:tokenward /etc/tokenward", "systemctl enable --now tokenward"] {
            assert!(step.contains(part), "{step}");
        }
        assert!(last("t").contains("tokenward serve"));
        let relative = render("./t");
        assert_eq!(relative.sealing.keyring, Path::new("t/keyring"));
    }

    #[test]
    fn users_have_the_name_that_means_them() {
        let passwd = "root:x:0:0::/:/\ntoor:x:0:0::/:/\n7:x:9:9::/:/\nme:x:1000:1000::/:/\n";
        assert_eq!(user_name(0, passwd), "root");
        assert_eq!(user_name(1000, passwd), "me");
        assert_eq!(user_name(9, passwd), "9", "a name that is a number would mean another user");
        assert_eq!(user_name(5, passwd), "5");
    }
}
