//! `check`: everything that can be known to be wrong before the daemon starts, without the network.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use zeroize::Zeroizing;

use super::{ConfigPath, Exit, Failure, World};
use crate::authority::ClientCredential;
use crate::callers::{UnixUser, key_file};
use crate::config::{
    self, AuditSink, Authenticate, Config, CredentialConfig, CredentialKind, Listener, StoreBackend, Tls,
    read_credentials_dir,
};
use crate::domain::time::Timestamp;
use crate::keyring::{Keyring, files};
use crate::listener::tls_server_config;
use crate::secret_file::{MAX_SECRET_SIZE, SecretReader};

/// The longest path that a Unix socket can have: `sun_path` without its zero byte (unix(7)).
pub(super) const LONGEST_SOCKET_PATH: usize = 107;
/// What expires sooner than this is worth a warning.
const SOON: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);
/// What `init` writes when it is told no client id.
pub(super) const PLACEHOLDER_CLIENT_ID: &str = "00000000-0000-0000-0000-000000000000";

/// How to print what was found.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print {config, ok, mistakes, warnings, apps: [{app, redirect_uri, way_out}]}
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let file = config.path.display().to_string();
    let loaded = match config::load_file(&config.path, &world.env) {
        Ok(loaded) => loaded,
        Err(errors) => {
            if args.json {
                let mistakes: Vec<String> = errors.mistakes.iter().map(ToString::to_string).collect();
                let apps: [(); 0] = [];
                world.output.json(
                    &json!({ "config": file, "ok": false, "mistakes": mistakes, "warnings": apps, "apps": apps }),
                )?;
            }
            return Err(config.failure(&errors));
        }
    };
    let mut findings = Findings { file: &file, mistakes: Vec::new(), warnings: loaded.warnings };
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let credentials_directory = world.env.get("CREDENTIALS_DIRECTORY").map(Path::new);
    let secrets = SecretReader::for_owner_of(&loaded.config.sealing.keyring, credentials_directory);
    Check { config: &loaded.config, secrets, now: world.clock.now(), passwd }.all(&mut findings);
    let Findings { mistakes, warnings, .. } = findings;

    let redirects: Vec<(&str, String)> = loaded
        .config
        .apps
        .keys()
        .filter_map(|app| Some((app.as_str(), loaded.config.redirect_uri(app)?)))
        .collect();
    let way_out = |app: &str| loaded.config.outbound.way_to(&loaded.config.apps[app].authority);
    if args.json {
        let apps: Vec<_> = redirects
            .iter()
            .map(|(app, uri)| json!({ "app": app, "redirect_uri": uri, "way_out": way_out(app) }))
            .collect();
        world.output.json(&json!({
            "config": file, "ok": mistakes.is_empty(), "mistakes": mistakes, "warnings": warnings, "apps": apps,
        }))?;
    } else {
        for (app, uri) in &redirects {
            world.output.data(&format!("{app}: register the redirect URI {uri} (platform Web)"))?;
        }
        for (app, settings) in &loaded.config.apps {
            let way = loaded.config.outbound.way_to(&settings.authority);
            world
                .output
                .data(&format!("{app}: the authority {} is reached {way}", settings.authority.host()))?;
        }
    }
    for warning in &warnings {
        world.output.say(&format!("warning: {warning}"));
    }
    if !mistakes.is_empty() {
        for mistake in &mistakes {
            world.output.say(mistake);
        }
        return Err(Failure::silent(Exit::Usage));
    }
    if !args.json {
        world.output.data(&format!(
            "{file} is good: {}, {}, {}.",
            count(redirects.len(), "app"),
            count(loaded.config.callers.len(), "caller"),
            count(warnings.len(), "warning")
        ))?;
    }
    Ok(())
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What has been found, a line each, in the form of the configuration's own mistakes.
struct Findings<'a> {
    file: &'a str,
    mistakes: Vec<String>,
    warnings: Vec<String>,
}

impl Findings<'_> {
    fn mistake(&mut self, key: &str, problem: impl std::fmt::Display) {
        self.mistakes.push(format!("{}: {key}: {problem}", self.file));
    }

    fn warning(&mut self, key: &str, problem: impl std::fmt::Display) {
        self.warnings.push(format!("{}: {key}: {problem}", self.file));
    }
}

/// A file that is no secret.
fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    use std::io::Read;
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_SECRET_SIZE + 1));
    file.take(MAX_SECRET_SIZE as u64 + 1).read_to_end(&mut content)?;
    match content.len() {
        0 => Err(io::Error::other("it is empty")),
        length if length > MAX_SECRET_SIZE => Err(io::Error::other("it is longer than 64 KiB")),
        _ => Ok(content),
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

struct Check<'a> {
    config: &'a Config,
    secrets: SecretReader,
    now: Timestamp,
    passwd: String,
}

impl Check<'_> {
    fn all(&self, findings: &mut Findings<'_>) {
        let keyring = files::open(&self.config.sealing.keyring)
            .map_err(|error| findings.mistake("sealing.keyring", error))
            .ok();
        self.store(findings);
        self.listeners(findings);
        if let Some(path) = &self.config.outbound.proxy_password_file {
            self.text("outbound.proxy_password_file", path, findings);
        }
        if let Some(path) = &self.config.outbound.proxy_ca_file {
            self.certificates("outbound.proxy_ca_file", path, findings);
        }
        self.apps(findings);
        let callers = self.config.callers.iter().map(|(name, caller)| (name, &caller.authenticate));
        self.callers("callers", callers, keyring.as_ref(), findings);
        let admins = self.config.admins.iter().map(|(name, admin)| (name, &admin.authenticate));
        self.callers("admins", admins, keyring.as_ref(), findings);
        if let AuditSink::File(path) = &self.config.audit.sink {
            self.file_to_write("audit.path", path, findings);
        }
    }

    fn store(&self, findings: &mut Findings<'_>) {
        match &self.config.store.backend {
            StoreBackend::Embedded { path } => {
                if let Ok(metadata) = std::fs::metadata(path) {
                    let mode = metadata.mode() & 0o777;
                    if !metadata.is_dir() {
                        findings.mistake("store.path", format_args!("{} is not a directory", path.display()));
                    } else if mode & 0o077 != 0 {
                        findings.mistake(
                            "store.path",
                            format_args!(
                                "others may enter {0} (mode {mode:03o}); run `chmod 700 {0}`",
                                path.display()
                            ),
                        );
                    }
                }
            }
            StoreBackend::Redis(redis) => {
                if let Some(path) = &redis.sentinel_password_file {
                    self.text("store.sentinel_password_file", path, findings);
                }
                if let Some(path) = &redis.password_file {
                    self.text("store.password_file", path, findings);
                }
                if let Some(path) = &redis.ca_file {
                    self.certificates("store.ca_file", path, findings);
                }
                if let (Some(certificate), Some(key)) = (&redis.client_certificate, &redis.client_key) {
                    self.pair(("store.client_certificate", certificate), ("store.client_key", key), findings);
                }
            }
        }
    }

    fn listeners(&self, findings: &mut Findings<'_>) {
        let listen = &self.config.listen;
        self.tls("listen.public", listen.public.tls.as_ref(), findings);
        self.tls("listen.ops", listen.ops.tls.as_ref(), findings);
        for (name, listeners) in [("local", &listen.local), ("admin", &listen.admin)] {
            for (at, listener) in listeners.iter().enumerate() {
                let key = format!("listen.{name}[{at}]");
                match listener {
                    Listener::Tcp { tls, .. } => self.tls(&key, tls.as_ref(), findings),
                    Listener::Unix { path, .. } if path.as_os_str().len() > LONGEST_SOCKET_PATH => findings
                        .mistake(
                            &format!("{key}.unix"),
                            format_args!(
                                "{} is longer than the {LONGEST_SOCKET_PATH} bytes that a socket's path can have",
                                path.display()
                            ),
                        ),
                    Listener::Unix { path, .. } => {
                        let parent = path.parent().filter(|parent| parent.exists() && !parent.is_dir());
                        if let Some(parent) = parent {
                            findings.mistake(
                                &format!("{key}.unix"),
                                format_args!("{} is not a directory", parent.display()),
                            );
                        }
                    }
                }
            }
        }
    }

    fn tls(&self, key: &str, tls: Option<&Tls>, findings: &mut Findings<'_>) {
        if let Some(Tls { certificate, key: key_file }) = tls {
            let certificate = (&*format!("{key}.tls.certificate"), certificate.as_path());
            self.pair(certificate, (&*format!("{key}.tls.key"), key_file), findings);
        }
    }

    /// A certificate and its key in two files.
    fn pair(&self, certificate: (&str, &Path), key: (&str, &Path), findings: &mut Findings<'_>) {
        let chain = read_bounded(certificate.1)
            .map_err(|error| findings.mistake(certificate.0, cannot_read(certificate.1, &error)));
        let private = self.secrets.read(key.1).map_err(|error| findings.mistake(key.0, error));
        if let (Ok(chain), Ok(private)) = (chain, private)
            && let Err(error) = tls_server_config(&chain, &private, None)
        {
            let files = format!("{} and {}", certificate.1.display(), key.1.display());
            findings.mistake(certificate.0, format_args!("{files}: {error}"));
        }
    }

    fn certificates(&self, key: &str, path: &Path, findings: &mut Findings<'_>) {
        match read_bounded(path) {
            Err(error) => findings.mistake(key, cannot_read(path, &error)),
            Ok(pem) => {
                let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
                if !all.is_ok_and(|all| !all.is_empty()) {
                    findings
                        .mistake(key, format_args!("{} holds no readable PEM certificate", path.display()));
                }
            }
        }
    }

    /// A secret that is one line of text.
    fn text(&self, key: &str, path: &Path, findings: &mut Findings<'_>) {
        if let Err(error) = self.secrets.read_text(path) {
            findings.mistake(key, error);
        }
    }

    fn apps(&self, findings: &mut Findings<'_>) {
        for (name, app) in &self.config.apps {
            if app.client_id == PLACEHOLDER_CLIENT_ID {
                findings.warning(
                    &format!("apps.{name}.client_id"),
                    "is a placeholder: put the Application (client) ID from Entra's overview page there",
                );
            }
            if let Some(path) = &app.authority_ca {
                self.certificates(&format!("apps.{name}.authority_ca"), path, findings);
            }
            for (at, credential) in app.credentials.iter().enumerate() {
                let key = format!("apps.{name}.credentials[{at}].file");
                self.credential(&key, credential, findings);
            }
            let Some(directory) = &app.credentials_dir else { continue };
            let key = format!("apps.{name}.credentials_dir");
            match read_credentials_dir(directory) {
                Err(error) => {
                    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                    findings.mistake(&key, format_args!("{error}{}", source.unwrap_or_default()));
                }
                Ok(all) if all.is_empty() => findings.warning(
                    &key,
                    format_args!(
                        "{} holds no client credential yet, so no token can be fetched",
                        directory.display()
                    ),
                ),
                Ok(all) => {
                    for credential in &all {
                        if credential.kind == CredentialKind::Secret && credential.expires.is_none() {
                            findings.warning(
                                &key,
                                format_args!(
                                    "{} does not say when it expires: nobody will be warned before it stops working; name it as in `{}@2027-05-20.secret`",
                                    credential.file.display(), credential.id
                                ),
                            );
                        }
                        self.credential(&key, credential, findings);
                    }
                }
            }
        }
    }

    fn credential(&self, key: &str, credential: &CredentialConfig, findings: &mut Findings<'_>) {
        let file = credential.file.display();
        let mut expires = credential.expires.map(|at| Timestamp::from_unix_seconds(at.unix_timestamp()));
        match credential.kind {
            CredentialKind::Secret => self.text(key, &credential.file, findings),
            CredentialKind::Federated => match read_bounded(&credential.file) {
                // It may be put there later and is replaced all the time; whoever issues it sets its mode.
                Err(error) => findings.mistake(key, cannot_read(&credential.file, &error)),
                Ok(_) => return,
            },
            CredentialKind::Certificate => {
                let pem = match &credential.key {
                    None => self.secrets.read(&credential.file).map_err(|error| error.to_string()),
                    Some(private) => {
                        self.secrets.read(private).map_err(|error| error.to_string()).and_then(|mut pem| {
                            let chain = read_bounded(&credential.file)
                                .map_err(|error| cannot_read(&credential.file, &error))?;
                            pem.push(b'\n');
                            pem.extend_from_slice(&chain);
                            Ok(pem)
                        })
                    }
                };
                let checked = pem.and_then(|pem| {
                    ClientCredential::certificate(credential.id.as_str(), &pem)
                        .map_err(|fault| format!("{file} {fault}"))
                });
                match checked {
                    Ok(certificate) => expires = certificate.expires_at(),
                    Err(problem) => return findings.mistake(key, problem),
                }
            }
        }
        match expires {
            Some(at) if at <= self.now => {
                findings.warning(key, format_args!("{file} expired at {}", at.rfc3339()));
            }
            Some(at) if at.since(self.now) < SOON => {
                findings.warning(key, format_args!("{file} expires at {}", at.rfc3339()));
            }
            _ => {}
        }
    }

    fn callers<'b>(
        &self,
        section: &str,
        all: impl Iterator<Item = (&'b String, &'b Vec<Authenticate>)>,
        keyring: Option<&Keyring>,
        findings: &mut Findings<'_>,
    ) {
        let mut by_uid: HashMap<u32, &str> = HashMap::new();
        for (name, ways) in all {
            for (at, way) in ways.iter().enumerate() {
                let key = format!("{section}.{name}.authenticate[{at}]");
                match way {
                    Authenticate::UnixUser(user) => {
                        let user = match user {
                            config::UnixUser::Id(uid) => Ok(UnixUser { uid: *uid }),
                            config::UnixUser::Name(name) => UnixUser::resolve(name, &self.passwd),
                        };
                        match user {
                            Err(error) => findings.mistake(&format!("{key}.unix_user"), error),
                            Ok(UnixUser { uid }) => {
                                if let Some(first) = by_uid.insert(uid, name).filter(|first| first != name) {
                                    findings.mistake(
                                        &format!("{key}.unix_user"),
                                        format_args!("the user {uid} is `{first}` already; a user can be one of them only"),
                                    );
                                }
                            }
                        }
                    }
                    Authenticate::ApiKeys(path) => {
                        self.key_file(&format!("{key}.api_keys"), name, path, keyring, findings);
                    }
                }
            }
        }
    }

    fn key_file(
        &self,
        key: &str,
        caller: &str,
        path: &Path,
        keyring: Option<&Keyring>,
        findings: &mut Findings<'_>,
    ) {
        let keys = match key_file::list_as(path, &self.secrets) {
            Ok(keys) => keys,
            Err(error) => return findings.mistake(key, error),
        };
        if keys.is_empty() {
            return findings.warning(
                key,
                format_args!(
                    "{} holds no key yet: `tokenward callers add-key {caller}` makes one",
                    path.display()
                ),
            );
        }
        if !keys.iter().any(|one| one.is_live(self.now)) {
            findings.warning(key, format_args!("every key in {} has expired", path.display()));
        }
        for one in &keys {
            let Some(sealing_key) = &one.sealing_key else { continue };
            if keyring.is_some_and(|ring| ring.key(sealing_key).is_none()) {
                findings.warning(
                    key,
                    format_args!(
                        "the key `{}` in {} is refused: the sealing key {sealing_key} that it was made with is gone",
                        one.id,
                        path.display(),
                    ),
                );
            }
        }
    }

    /// A file that is appended to: it, or the directory it will be in, is there.
    fn file_to_write(&self, key: &str, path: &Path, findings: &mut Findings<'_>) {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if path.is_dir() {
            findings.mistake(key, format_args!("{} is a directory; give the path of a file", path.display()));
        } else if !parent.is_dir() {
            findings.mistake(
                key,
                format_args!(
                    "there is no directory {}; make it, owned by the daemon's user",
                    parent.display()
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Scene;

    const APP: &str = "[apps.outlook]\nclient_id = \"11111111-2222-3333-4444-555555555555\"\n\
                       authority = \"https://login.microsoftonline.com/common/v2.0\"\n\
                       scopes = [\"offline_access\", \"openid\", \"Mail.Read\"]\n";

    fn scene(rest: &str) -> (Scene, String) {
        let scene = Scene::new();
        let config = scene.file("t.toml", &format!("sealing.keyring = \"ring\"\n{rest}"), 0o600);
        scene.run(&["keyring", "add", "--config", &config]);
        (scene, config)
    }

    #[test]
    fn every_file_that_is_wrong_is_named_with_its_key() {
        let rest = format!(
            "store.kind = \"redis\"\nstore.url = \"rediss://r\"\nstore.password_file = \"pw\"\nstore.ca_file = \"ca\"\n\
             listen.ops.tls = {{ certificate = \"cert\", key = \"key\" }}\naudit.path = \"nowhere/audit.log\"\n{APP}\
             [[apps.outlook.credentials]]\nid = \"a\"\nkind = \"secret\"\nfile = \"open\"\nexpires = 2027-05-20\n\
             [[apps.outlook.credentials]]\nid = \"b\"\nkind = \"certificate\"\nfile = \"junk\"\n\
             [callers.a]\nauthenticate = [{{ unix_user = \"nobody-here\" }}, {{ api_keys = \"junk\" }}]\n\
             [callers.b]\nauthenticate = [{{ unix_user = 7 }}]\n[callers.c]\nauthenticate = [{{ unix_user = 7 }}]\n"
        );
        let (scene, config) = scene(&rest);
        scene.file("open", "hunter2", 0o644);
        scene.file("junk", "hunter2", 0o600);
        let ended = scene.run(&["check", "--config", &config]);
        assert_eq!(ended.code, 2);
        for expected in [
            "store.password_file: cannot read the secret file",
            "store.ca_file: cannot read",
            "listen.ops.tls.certificate: cannot read",
            "listen.ops.tls.key: cannot read",
            "apps.outlook.credentials[0].file: the secret file",
            "chmod 600",
            "apps.outlook.credentials[1].file",
            "callers.a.authenticate[0].unix_user: there is no user `nobody-here`",
            "callers.a.authenticate[1].api_keys: key file",
            "callers.c.authenticate[0].unix_user: the user 7 is `b` already",
            "audit.path: there is no directory",
        ] {
            assert!(ended.err.contains(expected), "{expected} is missing in\n{}", ended.err);
        }
        assert!(!ended.err.contains("hunter2"), "{}", ended.err);
        assert!(ended.out.contains("/callback/outlook"), "the redirect URI is shown all the same");
        let json = scene.run(&["check", "--json", "--config", &config]);
        assert_eq!(json.code, 2);
        let json = json.json();
        assert_eq!(json["ok"], false);
        assert!(json["mistakes"].as_array().expect("a list").len() >= 10);
    }

    #[test]
    fn what_expires_soon_or_never_says_is_a_warning() {
        let (scene, config) = scene(&format!("{APP}credentials_dir = \"credentials\"\n"));
        std::fs::create_dir(scene.path("credentials")).expect("a directory");
        for name in ["a@2026-11-01.secret", "b@2026-12-01.secret", "c@2027-05-20.secret", "d.secret"] {
            scene.file(&format!("credentials/{name}"), "hunter2\n", 0o600);
        }
        let ended = scene.run(&["check", "--config", &config]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert!(ended.err.contains("a@2026-11-01.secret expired at 2026-11-01T00:00:00Z"), "{}", ended.err);
        assert!(ended.err.contains("b@2026-12-01.secret expires at 2026-12-01"), "{}", ended.err);
        assert!(!ended.err.contains("c@2027"), "{}", ended.err);
        assert!(ended.err.contains("d.secret does not say when it expires"), "{}", ended.err);
        assert!(ended.out.ends_with("1 app, 0 callers, 3 warnings.\n"), "{}", ended.out);
        scene.file("credentials/README", "x", 0o600);
        assert!(scene.run(&["check", "--config", &config]).err.contains("the name has no extension"));
    }

    #[test]
    fn root_checks_on_behalf_of_the_daemon_s_user() {
        use rustix::fs::{Gid, Uid, chown};
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (scene, config) = scene(&format!("{APP}credentials_dir = \"credentials\"\n"));
        std::fs::create_dir(scene.path("credentials")).expect("a directory");
        chown(scene.path("ring"), Some(Uid::from_raw(4711)), Some(Gid::from_raw(4712))).expect("chown");
        let file = "credentials/a@2027-05-20.secret";
        // Whose file it is, which group's, its mode, and whether the daemon would take it.
        for (user, group, mode, good) in [
            (4711, 0, 0o600, true),
            (4711, 4712, 0o640, false),
            (0, 4712, 0o640, true),
            (0, 0, 0o640, false),
            (4713, 4712, 0o600, false),
        ] {
            let path = scene.file(file, "hunter2", mode);
            chown(&path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).expect("chown");
            let ended = scene.run(&["check", "--config", &config]);
            assert_eq!(ended.code == 0, good, "{user}:{group} {mode:o}: {}", ended.err);
            std::fs::remove_file(path).expect("removed");
        }
    }
}
