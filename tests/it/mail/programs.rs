//! The mail programs themselves, with the guide's configuration, against Dovecot and Postfix: `make mail`.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use entra_emulator::{Endpoint, Fault, FaultRule, RevokeKind};
use http::Method;
use serde_json::{Map, Value, json};

use super::guide::{Files, give, mail_user};
use super::servers::{Postfix, Servers, open, until};
use super::{guide, without_details};
use crate::world::{ALICE, PATIENCE, Plan, World};

/// Exchange's scopes, as the guide has them.
const SCOPES: &str = r#"["offline_access", "openid", "profile",
    "https://outlook.office.com/IMAP.AccessAsUser.All", "https://outlook.office.com/SMTP.Send"]"#;

/// A user's home with the guide's files, and the servers.
struct Desk {
    /// Before the world, whose folder they need to stop.
    servers: Servers,
    world: World,
    home: PathBuf,
    /// `tokenward`, where the mail user finds it.
    program: PathBuf,
    files: Files,
}

/// What a program printed, both streams as they came, and its exit code.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    said: String,
}

impl Desk {
    async fn new() -> Desk {
        let caller = format!(
            "[callers.alice]\nauthenticate = [{{ unix_user = {} }}]\n[[callers.alice.allow]]\napp = \
             \"outlook\"\nconnections = [\"alice\"]\nscopes = \
             [\"https://outlook.office.com/IMAP.AccessAsUser.All\", \
             \"https://outlook.office.com/SMTP.Send\"]\n",
            mail_user()
        );
        let plan = Plan { scopes: SCOPES, ..Plan::default() };
        let world = plan.sections(&caller).start().await;
        let folder = world.folder.path();
        open(folder);
        let servers = Servers::start(folder, &format!("{}/_emulator/inspect-token", world.entra.base_url()));
        let bin = folder.join("bin");
        std::fs::create_dir(&bin).expect("a folder");
        let program = bin.join("tokenward");
        std::fs::copy(env!("CARGO_BIN_EXE_tokenward"), &program).expect("copied");
        let home = folder.join("home");
        std::fs::create_dir(&home).expect("a folder");
        give(&home);
        let files = Files::new(&[
            ("smtp.office365.com:587", format!("localhost:{}", servers.ports.submission)),
            ("outlook.office365.com:993", format!("localhost:{}", servers.ports.imaps)),
            ("smtp.office365.com", "localhost".to_owned()),
            ("outlook.office365.com", "localhost".to_owned()),
            ("port 587", format!("port {}", servers.ports.submission)),
            ("ort 993", format!("ort {}", servers.ports.imaps)),
            ("port = 993", format!("port = {}", servers.ports.imaps)),
            ("/etc/ssl/certs/ca-certificates.crt", folder.join("ca.pem").display().to_string()),
            ("alice@contoso.com", ALICE.to_owned()),
            ("alice%40contoso.com", ALICE.replace('@', "%40")),
        ]);
        for name in [
            "~/.mbsyncrc",
            "~/.msmtprc",
            "~/.neomuttrc",
            "~/.getmail/getmailrc",
            "~/.config/aerc/accounts.conf",
            "~/.offlineimaprc",
            "~/.offlineimap.py",
        ] {
            files.write_home(&home, name);
        }
        for maildir in ["mail", "inbox", "inbox/cur", "inbox/new", "inbox/tmp"] {
            std::fs::create_dir(home.join(maildir)).expect("a folder");
            give(&home.join(maildir));
        }
        Desk { world, servers, home, program, files }
    }

    fn folder(&self) -> &Path {
        self.world.folder.path()
    }

    /// A program as the mail user runs it.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        let bin = self.program.parent().expect("a folder");
        command
            .args(&words[1..])
            .current_dir(&self.home)
            .env_clear()
            .env("HOME", &self.home)
            .env("TERM", "xterm")
            .env("LANG", "C.UTF-8")
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
            .env("SSL_CERT_FILE", self.folder().join("ca.pem"))
            .env("TOKENWARD_CONFIG", self.folder().join("tokenward.toml"))
            .stdin(Stdio::null());
        if rustix::process::getuid().is_root() {
            command.uid(mail_user()).gid(mail_user());
        }
        command
    }

    fn run(&self, words: &[&str], input: &str) -> Ended {
        let (output, stdin) = (self.folder().join("output"), self.folder().join("input"));
        std::fs::write(&stdin, input).expect("written");
        let file = File::create(&output).expect("a file");
        let status = self
            .command(&[&["timeout", "60"], words].concat())
            .stdin(File::open(&stdin).expect("a file"))
            .stdout(file.try_clone().expect("cloned"))
            .stderr(file)
            .status()
            .unwrap_or_else(|error| panic!("{words:?} ({error}): run `make mail`, which installs it"));
        let said = String::from_utf8_lossy(&std::fs::read(&output).expect("read")).into_owned();
        Ended { code: status.code(), said }
    }

    /// Runs a full-screen program until its screen shows these words, and returns the screen.
    fn screen(&self, program: &str, words: &str) -> String {
        let line = format!("stty cols 200 rows 30; exec {program}");
        let mut child = self
            .command(&["script", "-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux has script");
        let mut output = child.stdout.take().expect("piped");
        let (sender, screens) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (mut shown, mut chunk) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = output.read(&mut chunk) {
                shown.extend_from_slice(&chunk[..read]);
                let _ = sender.send(String::from_utf8_lossy(&shown).into_owned());
            }
        });
        let begun = Instant::now();
        let mut last = String::new();
        while !last.contains(words) {
            match screens.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
                Ok(screen) => last = screen,
                Err(_) => panic!("{program} does not show {words:?}: {last}\n{}", self.servers.log()),
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        last
    }

    /// Sends a mail to Alice with msmtp.
    fn send(&self, subject: &str) -> Ended {
        self.run(&["msmtp", ALICE], &mail(subject))
    }

    /// How many mails are below a folder of the home.
    fn mails(&self, folder: &str, subject: &str) -> usize {
        let mut found = 0;
        let mut folders = vec![self.home.join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().map_while(Result::ok) {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    let content = std::fs::read(entry.path()).unwrap_or_default();
                    let subject = format!("Subject: {subject}");
                    found += usize::from(String::from_utf8_lossy(&content).contains(&subject));
                }
            }
        }
        found
    }

    /// The one line of the command itself, as it is now.
    fn line(&self, program: &str) -> String {
        let ended = self.run(&["tokenward", "token", "outlook", "alice", "--for", program], "");
        assert_eq!((ended.code, ended.said.matches('\n').count()), (Some(1), 1), "{}", ended.said);
        ended.said.trim_end().to_owned()
    }
}

fn mail(subject: &str) -> String {
    format!("From: {ALICE}\nTo: {ALICE}\nSubject: {subject}\n\nHello\n")
}

/// What the guide says of a program whose command failed: `| program | exit code | what it shows |`. Texts in
/// backticks are exact; `LINE` is the command's line.
fn shows(program: &str) -> (Option<i32>, Vec<String>) {
    let guide = guide();
    let head = format!("| {program} | ");
    let row = guide
        .lines()
        .skip_while(|line| !line.starts_with("| program | exit code |"))
        .find_map(|line| line.strip_prefix(&*head))
        .unwrap_or_else(|| panic!("the guide has no row of {program}"));
    let (code, texts) = row.split_once(" | ").expect("three cells");
    (code.parse().ok(), texts.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Debian's mail programs and root: `make mail`"]
async fn the_guide_s_programs_log_in_and_say_what_the_guide_shows() {
    let desk = Desk::new().await;
    // Nobody is connected yet.
    check_refusals(&desk, "connection_not_found");

    desk.world.connect("alice", ALICE).await;
    let sent = desk.send("one");
    assert_eq!((sent.code, sent.said.as_str()), (Some(0), ""), "{}", desk.servers.log());
    let body = "Hello\n";
    let sent = desk.run(&["neomutt", "-s", "two", ALICE], body);
    assert_eq!(sent.code, Some(0), "{}\n{}", sent.said, desk.servers.log());

    let delivered = |count: usize| {
        until("the mail arrives", || {
            let synced = desk.run(&["mbsync", "-a"], "");
            assert_eq!(synced.code, Some(0), "{}\n{}", synced.said, desk.servers.log());
            desk.mails("mail", "one") + desk.mails("mail", "two") == count
        });
    };
    delivered(2);
    let got = desk.run(&["getmail"], "");
    assert_eq!(got.code, Some(0), "{}\n{}", got.said, desk.servers.log());
    assert_eq!((desk.mails("inbox", "one"), desk.mails("inbox", "two")), (1, 1), "{}", got.said);
    let synced = desk.run(&["offlineimap", "-o", "-u", "basic"], "");
    assert_eq!(synced.code, Some(0), "{}\n{}", synced.said, desk.servers.log());
    assert_eq!(desk.mails("offline", "one"), 1, "{}", synced.said);
    desk.screen("neomutt", "two");
    desk.screen("aerc", "two");
    postfix_hands_mail_to_msmtp(&desk, "three");

    desk.world.entra.revoke_user(ALICE, RevokeKind::GrantRevoked).expect("revoked");
    desk.world.outlive_tokens();
    check_refusals(&desk, "reauthorization_required");

    // Connected anew, and the account is disabled.
    let gone = desk.world.api(Method::DELETE, "/v1/apps/outlook/connections/alice", Value::Null).await;
    assert_eq!(gone.status, 204, "{}", gone.text());
    desk.world.connect("alice", ALICE).await;
    desk.world.entra.revoke_user(ALICE, RevokeKind::Disabled).expect("disabled");
    desk.world.outlive_tokens();
    check_refusals(&desk, "connection_blocked");

    // A token that is too long for three of them.
    desk.world.entra.restore_user(ALICE).expect("restored");
    let gone = desk.world.api(Method::DELETE, "/v1/apps/outlook/connections/alice", Value::Null).await;
    assert_eq!(gone.status, 204, "{}", gone.text());
    let patch = Map::from_iter([("access_token".to_owned(), json!("t".repeat(8192)))]);
    desk.world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::TokenResponsePatch(patch)));
    desk.world.connect("alice", ALICE).await;
    check_each(&desk, &RUNS[..3], "bytes of token");
}

/// Each program by its name in the guide, and how it is run.
const RUNS: [(&str, &[&str]); 5] = [
    ("mbsync", &["mbsync", "-a"]),
    ("msmtp", &["msmtp", ALICE]),
    ("neomutt", &["neomutt", "-s", "x", ALICE]),
    ("getmail", &["getmail"]),
    ("offlineimap", &["offlineimap", "-o", "-u", "basic"]),
];

/// Each program whose command fails ends, and shows, as the guide's table says.
fn check_refusals(desk: &Desk, code: &str) {
    check_each(desk, &RUNS, code);
    let (_, texts) = shows("aerc");
    for text in texts {
        desk.screen("aerc", &text);
    }
}

#[expect(clippy::print_stdout, reason = "what each program showed")]
fn check_each(desk: &Desk, runs: &[(&str, &[&str])], code: &str) {
    let mut wrong = Vec::new();
    for &(program, words) in runs {
        let line = desk.line(program);
        assert!(line.contains(code), "{line}");
        let ended = desk.run(words, &mail("x"));
        println!("=== {program}, {code}: exit {:?}\n{}", ended.code, ended.said);
        let (exit, texts) = shows(program);
        if ended.code != exit {
            wrong.push(format!("{program} ends with {:?}", ended.code));
        }
        let said = ended.said.lines().map(without_details).collect::<Vec<_>>().join("\n");
        for text in texts.iter().map(|text| text.replace("LINE", &without_details(&line))) {
            if !said.contains(&text) {
                wrong.push(format!("{program} does not show: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", desk.servers.log());
}

/// A second Postfix takes mail on this machine, and msmtp sends it to the first.
fn postfix_hands_mail_to_msmtp(desk: &Desk, subject: &str) {
    let folder = desk.folder().join("relay");
    let rc = desk.home.join("msmtprc");
    let command = format!(
        "{} token outlook alice --config {}",
        desk.program.display(),
        desk.folder().join("tokenward.toml").display()
    );
    let content = desk.files.content("~/.msmtprc").replace("tokenward token outlook alice", &command);
    std::fs::write(&rc, &content).expect("written");
    std::fs::set_permissions(&rc, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    give(&rc);
    let master = desk
        .files
        .content("/etc/postfix/master.cf, as the client")
        .replace("/etc/postfix/msmtprc", &rc.display().to_string())
        .replace("user=alice", "user=nobody");
    let relay =
        Postfix::prepare(&folder, &desk.files.content("/etc/postfix/main.cf, as the client"), &master);
    relay.start();
    let message = desk.folder().join("message");
    std::fs::write(&message, mail(subject)).expect("written");
    let send = || {
        let mut sendmail = relay.command("sendmail", &["-f", ALICE, ALICE]);
        let sent = sendmail.stdin(File::open(&message).expect("a file")).status().expect("postfix has it");
        assert!(sent.success(), "{}", relay.log());
    };
    let logged = |words: &str| {
        until(words, || {
            assert!(!relay.log().contains("status=bounced"), "{}", relay.log());
            relay.log().contains(words)
        });
    };
    send();
    logged("status=sent (delivered via msmtp service)");
    // Without a token it stays in the queue, and the log has the command's line.
    std::fs::write(&rc, content.replace("token outlook alice", "token outlook nobody")).expect("written");
    send();
    logged("status=SOFTBOUNCE");
    assert!(relay.log().contains("there is no such connection for this caller"), "{}", relay.log());
}
