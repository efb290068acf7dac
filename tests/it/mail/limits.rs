//! How long a token may be, measured with the programs against a server of our own that counts what comes.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::guide::{give, mail_user};
use super::servers::open;

const USER: &str = "me@contoso.com";

/// Serves one login over IMAP or SMTP. The receiver gets the length of the token, 0 if none came whole.
fn serve(imap: bool) -> (u16, Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let (sender, length) = channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a program");
        let mut answers = stream.try_clone().expect("cloned");
        let mut say = |text: &str| answers.write_all(text.as_bytes()).is_ok();
        say(if imap { "* OK ready\r\n" } else { "220 ready\r\n" });
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        while let Some(line) = lines.next() {
            let mut words = line.split_whitespace();
            let tag = if imap { words.next().unwrap_or_default() } else { "" };
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "CAPABILITY" => {
                    say(&format!(
                        "* CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2 AUTH=OAUTHBEARER\r\n{tag} OK done\r\n"
                    ));
                }
                "EHLO" => {
                    say("250-here\r\n250 AUTH XOAUTH2 OAUTHBEARER\r\n");
                }
                "AUTHENTICATE" | "AUTH" => {
                    let response = match words.nth(1) {
                        Some(response) => response.to_owned(),
                        None => {
                            say(if imap { "+ \r\n" } else { "334 \r\n" });
                            lines.next().unwrap_or_default()
                        }
                    };
                    let response = STANDARD.decode(response.trim()).unwrap_or_default();
                    let response = String::from_utf8_lossy(&response).into_owned();
                    let token = response.split("auth=Bearer ").nth(1).unwrap_or_default();
                    let _ = sender.send(token.trim_end_matches('\x01').len());
                    return;
                }
                _ if imap => {
                    say(&format!("{tag} OK done\r\n"));
                }
                _ => {
                    say("250 ok\r\n");
                }
            }
        }
        let _ = sender.send(0);
    });
    (port, length)
}

/// A program, its mechanism, whether it speaks IMAP, its configuration (`PORT`, `FOLDER`), and how it is run.
struct Case {
    program: &'static str,
    mechanism: &'static str,
    imap: bool,
    config: &'static str,
    words: &'static [&'static str],
    longest: usize,
    /// What of a longer token arrives.
    beyond: usize,
}

const MSMTP: &str = "account default\nhost 127.0.0.1\nport PORT\ntls off\nauth MECHANISM\nuser me@contoso.com\n\
                     from me@contoso.com\npasswordeval cat FOLDER/token\n";
const NEOMUTT: &str = "set smtp_url = \"smtp://me@contoso.com@127.0.0.1:PORT/\"\nset ssl_starttls = no\n\
                       set ssl_force_tls = no\nset smtp_authenticators = \"MECHANISM\"\n\
                       set smtp_oauth_refresh_command = \"cat FOLDER/token\"\nset from = \"me@contoso.com\"\n";
const MBSYNC: &str = "IMAPAccount a\nHost 127.0.0.1\nPort PORT\nUser me@contoso.com\nPassCmd \"cat FOLDER/token\"\n\
                      AuthMechs XOAUTH2\nSSLType None\n\nIMAPStore far\nAccount a\n\nMaildirStore near\n\
                      Path FOLDER/mail/\nInbox FOLDER/mail/INBOX\n\nChannel a\nFar :far:\nNear :near:\n";
const GETMAIL: &str = "[retriever]\ntype = SimpleIMAPRetriever\nserver = 127.0.0.1\nport = PORT\n\
                       username = me@contoso.com\nuse_xoauth2 = True\npassword_command = (\"cat\", \"FOLDER/token\")\n\
                       [destination]\ntype = Maildir\npath = FOLDER/inbox/\n";

const CASES: [Case; 6] = [
    Case {
        program: "mbsync",
        mechanism: "xoauth2",
        imap: true,
        config: MBSYNC,
        words: &["mbsync", "-c", "config", "-a"],
        longest: 8191,
        // Without a word.
        beyond: 8191,
    },
    Case {
        program: "msmtp",
        mechanism: "xoauth2",
        imap: false,
        config: MSMTP,
        words: &["msmtp", "-C", "config", USER],
        longest: 3035,
        beyond: 0,
    },
    Case {
        program: "msmtp",
        mechanism: "oauthbearer",
        imap: false,
        config: MSMTP,
        words: &["msmtp", "-C", "config", USER],
        longest: 2997,
        beyond: 0,
    },
    Case {
        program: "neomutt",
        mechanism: "xoauth2",
        imap: false,
        config: NEOMUTT,
        words: &["neomutt", "-n", "-F", "config", "-s", "x", USER],
        longest: 4094,
        beyond: 0,
    },
    Case {
        program: "neomutt",
        mechanism: "oauthbearer",
        imap: false,
        config: NEOMUTT,
        words: &["neomutt", "-n", "-F", "config", "-s", "x", USER],
        longest: 510,
        beyond: 0,
    },
    Case {
        program: "getmail",
        mechanism: "xoauth2",
        imap: true,
        config: GETMAIL,
        words: &["getmail", "--getmaildir=.", "--rcfile=config"],
        longest: 120_000,
        beyond: 120_001,
    },
];

/// Runs a program with a token of this length, and returns how much of it came.
fn arrives(case: &Case, folder: &Path, length: usize) -> usize {
    let (port, arrived) = serve(case.imap);
    let config = case
        .config
        .replace("PORT", &port.to_string())
        .replace("FOLDER", folder.to_str().expect("UTF-8"))
        .replace("MECHANISM", case.mechanism);
    let message = format!("To: {USER}\n\nHello\n");
    for (name, content) in [("config", config), ("token", "t".repeat(length) + "\n"), ("message", message)] {
        let path = folder.join(name);
        std::fs::write(&path, content).expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
        give(&path);
    }
    let mut command = Command::new("timeout");
    command.arg("60").args(case.words).current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin");
    command.env("HOME", folder).env("LANG", "C.UTF-8");
    command.stdin(File::open(folder.join("message")).expect("written"));
    if rustix::process::getuid().is_root() {
        std::os::unix::process::CommandExt::gid(&mut command, mail_user());
        std::os::unix::process::CommandExt::uid(&mut command, mail_user());
    }
    let output = command.output().expect("it ends");
    match arrived.recv_timeout(std::time::Duration::from_secs(5)) {
        Ok(length) => length,
        Err(_) => panic!("{} never came: {}", case.program, String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
#[ignore = "needs Debian's mail programs: `make mail`"]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn the_programs_take_the_tokens_that_are_said_and_no_longer_ones() {
    let folder = tempfile::tempdir().expect("a temp dir");
    open(folder.path());
    give(folder.path());
    for made in ["mail", "inbox", "inbox/cur", "inbox/new", "inbox/tmp"] {
        std::fs::create_dir(folder.path().join(made)).expect("a folder");
        give(&folder.path().join(made));
    }
    let mut wrong = Vec::new();
    for case in &CASES {
        let got = [case.longest, case.longest + 1].map(|length| arrives(case, folder.path(), length));
        println!("{} with {}: {got:?}", case.program, case.mechanism);
        if got != [case.longest, case.beyond] {
            wrong.push(format!("{} with {}: {got:?}", case.program, case.mechanism));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
