//! `check` and `serve` refuse the same configurations with the same words.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::mistakes::{Row, rows};

/// How a command ended: its exit code, and its lines about the configuration.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) mistakes: Vec<String>,
    pub(crate) all: String,
}

/// Runs a command on a configuration. One that does not end by itself is a daemon that started.
pub(crate) fn run(command: &str, config: &Path) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args([command, "--config"])
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let begun = Instant::now();
    let code = loop {
        if let Some(ended) = child.try_wait().expect("a child of ours") {
            break ended.code();
        }
        if begun.elapsed() > Duration::from_secs(30) {
            child.kill().expect("a child of ours");
            child.wait().expect("it ends");
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut all = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut all).expect("UTF-8");
    let prefix = format!("{}:", config.display());
    let mistakes = all.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect();
    Ended { code, mistakes, all }
}

fn write(folder: &Path, row: &Row, keyring: &Path) -> std::path::PathBuf {
    for file in &row.files {
        let path = folder.join(file.name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        match file.name.ends_with('/') {
            true => std::fs::create_dir_all(&path).expect("made"),
            false => std::fs::write(&path, &file.content).expect("written"),
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(file.mode)).expect("chmod");
    }
    std::os::unix::fs::symlink(keyring, folder.join("ring")).expect("a link");
    let config = folder.join("t.toml");
    std::fs::write(&config, &row.config).expect("written");
    config
}

#[test]
fn check_and_serve_refuse_the_same_in_the_same_words() {
    let folder = tempfile::tempdir().expect("a temp dir");
    let ring = folder.path().join("ring");
    let of_ring = folder.path().join("ring.toml");
    std::fs::write(&of_ring, "sealing.keyring = \"ring\"\n").expect("written");
    let added = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["keyring", "add", "--config"])
        .arg(&of_ring)
        .output()
        .expect("it runs");
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));

    let rows = rows();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let wrong = parking_lot::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    if let Err(problem) = hold(row, &ring) {
                        wrong.lock().push(problem);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

fn hold(row: &Row, ring: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a temp dir");
    let config = write(folder.path(), row, ring);
    let (checked, served) = (run("check", &config), run("serve", &config));
    let mut lines = checked.mistakes.clone();
    lines.retain(|line| !line.starts_with("warning: "));
    let place = |line: &str| {
        let mut parts = line.splitn(3, ':');
        parts.next().is_some_and(|line| line.parse::<usize>().is_ok_and(|line| line > 0))
            && parts.next().is_some_and(|column| column.parse::<usize>().is_ok_and(|column| column > 0))
    };
    let problem = if checked.code != Some(2) || !matches!(served.code, Some(1 | 2)) {
        format!("ended with {:?} and {:?}", checked.code, served.code)
    } else if lines.len() != 1 || !lines[0].contains(row.says) {
        format!("check says {lines:?}")
    } else if !place(&lines[0]) {
        format!("there is no place in {lines:?}")
    } else if served.mistakes != lines {
        format!("check says {lines:?}, serve says {:?}", served.mistakes)
    } else if checked.all.contains("hunter") || served.all.contains("hunter") {
        "a secret is printed".to_owned()
    } else {
        return Ok(());
    };
    Err(format!(
        "{}\n  must be {:?};\n  {problem}\n  {}\n  {}",
        row.config, row.says, checked.all, served.all
    ))
}

/// One folder with a keyring and an app whose only credential is in `credential`, of that kind.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new(kind: &str, rest: &str) -> Desk {
        let desk = Desk(tempfile::tempdir().expect("a temp dir"));
        let config = format!(
            "sealing.keyring = \"ring\"\n{rest}\n[apps.a]\nclient_id = \
             \"11111111-2222-3333-4444-555555555555\"\n\
             authority = \"https://login.microsoftonline.com/common/v2.0\"\nscopes = [\"offline_access\", \
             \"openid\"]\n\
             [[apps.a.credentials]]\nid = \"a\"\nkind = \"{kind}\"\nfile = \"credential\"\n{}\n",
            if kind == "secret" { "expires = 2099-01-01" } else { "" }
        );
        std::fs::write(desk.config(), config).expect("written");
        let config = desk.config();
        let added = Command::new(env!("CARGO_BIN_EXE_tokenward"))
            .args(["keyring", "add", "--config"])
            .arg(config)
            .output()
            .expect("it runs");
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        desk
    }

    fn config(&self) -> std::path::PathBuf {
        self.0.path().join("t.toml")
    }

    fn write(&self, name: &str, content: &[u8]) -> std::path::PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        path
    }

    fn check(&self) -> Ended {
        run("check", &self.config())
    }

    /// Runs a shell's words.
    fn shell(&self, command: &str) -> Vec<u8> {
        let ran =
            Command::new("sh").args(["-c", command]).current_dir(self.0.path()).output().expect("a shell");
        assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
        ran.stdout
    }
}

fn utf16(text: &str) -> Vec<u8> {
    [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
}

#[test]
fn a_pasted_secret_is_refused_or_warned_about_and_never_printed() {
    let desk = Desk::new(
        "secret",
        "store = { kind = \"redis\", url = \"redis://localhost\", password_file = \"password\" }\n\
         outbound = { proxy = \"http://127.0.0.1:1\", proxy_username = \"u\", proxy_password_file = \
         \"proxy\" }",
    );
    let refused = "the secret file";
    for (content, code, words) in [
        (b"hunter2~Q8".to_vec(), 0, ""),
        (b"hunter2\r\n".to_vec(), 0, ""),
        ("\u{feff}hunter2".into(), 2, "a byte order mark (U+FEFF) as character 1"),
        ("hunter2\u{a0}\n".into(), 2, "a no-break space (U+00A0) as character 8"),
        ("hunt\u{200b}er2".into(), 2, "an invisible character (U+200B) as character 5"),
        ("\u{201c}hunter2\u{201d}".into(), 2, "a typographic quotation mark (U+201C) as character 1"),
        (utf16("hunter2\r\n"), 2, "is UTF-16"),
        (b"\"hunter2\"".to_vec(), 0, "has quotes around it"),
        (b"'hunter2'\n".to_vec(), 0, "has quotes around it"),
        (b" hunter2".to_vec(), 0, "begins or ends with a blank"),
        (b"hunter2 \n".to_vec(), 0, "begins or ends with a blank"),
        (b"CLIENT_SECRET=hunter2\n".to_vec(), 0, "looks like a line `NAME=…`"),
    ] {
        for (name, key) in [
            ("credential", "apps.a.credentials[0].file"),
            ("password", "store.password_file"),
            ("proxy", "outbound.proxy_password_file"),
        ] {
            for good in ["credential", "password", "proxy"] {
                desk.write(good, b"good");
            }
            desk.write(name, &content);
            let checked = desk.check();
            let line = checked.all.lines().find(|line| line.contains(key)).unwrap_or_default();
            assert_eq!(checked.code, Some(code), "{content:?}: {}", checked.all);
            assert!(line.contains(words) && line.is_empty() == words.is_empty(), "{words}: {}", checked.all);
            assert!(code == 0 || line.contains(refused), "{line}");
            assert!(!checked.all.contains("hunter") && !checked.all.contains("er2"), "{}", checked.all);
        }
    }
    // What only one of them cannot be.
    desk.write("credential", "hünter2".as_bytes());
    desk.write("password", "pässwörd".as_bytes());
    let checked = desk.check();
    assert!(checked.mistakes.len() == 1 && checked.mistakes[0].contains("U+00FC"), "{}", checked.all);
    desk.write("credential", b"5f0a1b2c-1111-2222-3333-444455556666");
    let checked = desk.check();
    assert_eq!(checked.code, Some(0));
    assert!(checked.all.contains("that is the secret's ID, not its value"), "{}", checked.all);
    assert!(!checked.all.contains("5f0a1b2c"), "{}", checked.all);
}

#[test]
fn pem_that_something_befell_is_called_by_its_name_and_mended_by_the_command() {
    let desk = Desk::new("certificate", "");
    desk.shell(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out certificate -days 3650 -subj \
         /CN=tokenward 2>&1",
    );
    let (key, certificate) = (desk.shell("cat key"), desk.shell("cat certificate"));
    let text = |pem: &[u8]| String::from_utf8(pem.to_vec()).expect("PEM");
    let both = text(&certificate) + &text(&key);
    let indented: String = both.lines().map(|line| format!("    {line}\n")).collect();
    let pkcs12 =
        desk.shell("openssl pkcs12 -export -in certificate -inkey key -passout pass: -out p12 && cat p12");
    for (what, content, named) in [
        ("a mark", format!("\u{feff}{both}").into_bytes(), "begins with a byte order mark"),
        ("UTF-16", utf16(&both), "is UTF-16"),
        (
            "together",
            both.replace("-----\n-----", "----------").into_bytes(),
            "has no line end between two blocks",
        ),
        ("literal", both.replace('\n', "\\n").into_bytes(), "has `\\n` as two characters"),
        ("one line", both.replace('\n', "").into_bytes(), "lost its line ends"),
        ("blanks", both.replace('\n', " ").into_bytes(), "lost its line ends"),
        ("indented", indented.into_bytes(), "blanks before its lines"),
        ("PKCS#12", pkcs12, "is a PKCS#12 container"),
    ] {
        desk.write("credential", &content);
        let checked = desk.check();
        assert_eq!(checked.code, Some(2), "{what}: {}", checked.all);
        let line = checked.mistakes.first().unwrap_or_else(|| panic!("{what}: {}", checked.all));
        assert!(line.contains(named) && line.contains("apps.a.credentials[0].file"), "{what}: {line}");
        assert!(!checked.all.contains("MII"), "{what}: nothing of a key is printed: {}", checked.all);
        let (_, command) = line.split_once("; fix: ").expect("a command");
        desk.shell(&command.replace("openssl pkcs12", "openssl pkcs12 -passin pass:"));
        let checked = desk.check();
        assert_eq!(checked.code, Some(0), "{what}, after {command}: {}", checked.all);
        let mode = std::fs::metadata(desk.0.path().join("credential")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{what}");
    }
    for (content, named) in [
        (desk.shell("openssl pkey -in key -outform DER"), "is a private key in DER"),
        (desk.shell("openssl x509 -in certificate -outform DER"), "is a certificate in DER"),
    ] {
        desk.write("credential", &content);
        let checked = desk.check();
        assert!(checked.mistakes[0].contains(named), "{}", checked.all);
        desk.shell(checked.mistakes[0].split_once("; fix: ").expect("a command").1);
        assert!(desk.check().mistakes[0].contains("PEM"), "it is PEM now, and one half of what is needed");
    }
}

#[test]
fn a_mounted_secret_s_mode_is_set_where_it_is_mounted() {
    let desk = Desk::new("secret", "");
    // As Kubernetes lays a volume out.
    let volume = desk.0.path().join("..2026_11_22");
    std::fs::create_dir(&volume).expect("made");
    let inside = desk.write("..2026_11_22/credential", b"hunter2");
    std::os::unix::fs::symlink("..2026_11_22", desk.0.path().join("..data")).expect("a link");
    std::os::unix::fs::symlink("..data/credential", desk.0.path().join("credential")).expect("a link");
    std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let line = desk.check().mistakes.remove(0);
    assert!(
        line.contains("`defaultMode: 0400`") && line.contains("`mode: 0400`") && !line.contains("chmod"),
        "{line}"
    );
    std::fs::remove_file(desk.0.path().join("..data")).expect("removed");
    std::fs::remove_file(desk.0.path().join("credential")).expect("removed");
    std::fs::set_permissions(desk.write("credential", b"hunter2"), std::fs::Permissions::from_mode(0o644))
        .expect("chmod");
    assert!(desk.check().mistakes[0].contains("chmod 600"));
}

#[test]
fn what_was_probably_not_meant_is_a_warning_with_its_place() {
    let app = |authority: &str, scopes: &str, rest: &str| {
        format!(
            "sealing.keyring = \"ring\"\n[apps.a]\nclient_id = \"11111111-2222-3333-4444-555555555555\"\n\
             authority = \"{authority}\"\nscopes = [{scopes}]\ncredentials_dir = \"credentials\"\n{rest}"
        )
    };
    let entra = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0";
    let scopes = r#""openid", "offline_access", "Mail.Read", "Calendars.Read""#;
    let rule = |scopes: &str| {
        format!(
            "[callers.sync]\nauthenticate = [{{ unix_user = 7 }}]\n[[callers.sync.allow]]\napp = \
             \"a\"\nconnections = [\"x\"]\nscopes = [{scopes}]\n"
        )
    };
    let desk = Desk::new("secret", "");
    std::fs::create_dir(desk.0.path().join("credentials")).expect("made");
    desk.write("credentials/a@2099-01-01.secret", b"hunter2");
    for (config, said) in [
        (app(entra, scopes, ""), ""),
        (app(entra, scopes, &rule("\"*\"")), ""),
        (app(entra, scopes, &rule("\"Mail.Read\", \"calendars.read\"")), ""),
        (app("https://idp.example", "\"openid\", \"mail\", \"maill\"", &rule("\"mail\"")), ""),
        (
            app(entra, scopes, &rule("\"Mail.Read\"")),
            "12:10: callers.sync.allow[0].scopes: decides who gets a token and not what it can do: a token \
             of Entra carries all that was granted for its resource, here Calendars.Read too",
        ),
        (
            app(entra, scopes, &rule("\"Mail.Read\", \"Calendars.Raed\", \"Calendars.Read\"")),
            "12:24: callers.sync.allow[0].scopes[1]: app `a` does not ask for it: only a connection whose \
             own connect session asked has it (did you mean `Calendars.Read`?)",
        ),
        (app(entra, scopes, &rule("\"*\"")).replace("[\"x\"]", "[\"team-a/*\", \"user-*\"]"), ""),
        (
            app(entra, scopes, &rule("\"*\"")).replace("[\"x\"]", "[\"x\", \"team-a*\"]"),
            "11:21: callers.sync.allow[0].connections[1]: `team-a*` means every name that begins with \
             `team-a`, team-ab/… too",
        ),
        (
            app(entra, scopes, &rule("\"*\""))
                .replace("[\"x\"]", "[\"tenant:9188040D-6c67-4c5b-b112-36a304b66dad\"]"),
            "11:16: callers.sync.allow[0].connections[0]: `tenant:9188040d-6c67-4c5b-b112-36a304b66dad` is \
             the tenant of every personal Microsoft account",
        ),
        (
            app(entra, scopes, &rule("\"*\"").replace("unix_user = 7", "spiffe = \"spiffe://a/b\"")),
            "8:28: callers.sync.authenticate[0].spiffe: has no effect: no `[[listen.local]]` accepts \
             `spiffe`; it needs one whose `tls` has a `client_ca`",
        ),
        (
            app(entra, r#""openid", "offline_access", "Mail.Raed""#, ""),
            "5:39: apps.a.scopes[2]: \"Mail.Raed\" is not well known (did you mean `Mail.Read`?)",
        ),
        (
            app(
                "https://login.microsoftonline.com/common/v2.0",
                scopes,
                "tenants = [\"*\"]\nhome_tenant = \"contoso.com\"\n",
            ),
            "4:13: apps.a.authority: `common` lets personal accounts sign in",
        ),
        (
            app("https://login.microsoftonline.com/organizations/v2.0", scopes, ""),
            "2:7: apps.a: without `home_tenant`",
        ),
        (
            app(entra, scopes, "redirect_uri = \"https://x.example/oauth/done\"\n"),
            "7:16: apps.a.redirect_uri: the daemon answers at /callback/a only",
        ),
        (
            app(entra, scopes, "").replace(
                "\"11111111-2222-3333-4444-555555555555\"",
                "\"{11111111-2222-3333-4444-555555555555}\"",
            ),
            "3:13: apps.a.client_id: write it without what stands around it: \
             `11111111-2222-3333-4444-555555555555`",
        ),
    ] {
        std::fs::write(desk.config(), &config).expect("written");
        let checked = desk.check();
        assert_eq!(checked.code, Some(0), "{config}: {}", checked.all);
        let prefix = format!("warning: {}:", desk.config().display());
        let warnings: Vec<&str> = checked.all.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        assert_eq!(warnings.len(), usize::from(!said.is_empty()), "{config}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.starts_with(said)), "{said}: {warnings:?}");
    }
    std::fs::write(desk.config(), app(entra, r#""openid", "offline_acces", "Mail.Read""#, ""))
        .expect("written");
    let checked = desk.check();
    assert!(checked.all.contains("(did you mean `offline_access`?)"), "{}", checked.all);
}
