//! A Dovecot that takes the emulator's tokens, and a Postfix beside it that asks Dovecot about logins and hands
//! mail to it. Both are set up as the guide says, on ports of their own, and end with the test.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::guide::{Files, give, mail_user};
use crate::redis_server::free_port;

/// Time for a server to start or to stop on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Where the servers listen.
pub(super) struct Ports {
    pub(super) imaps: u16,
    pub(super) submission: u16,
    lmtp: u16,
}

/// The running servers.
pub(super) struct Servers {
    pub(super) ports: Ports,
    dovecot: Child,
    dovecot_log: PathBuf,
    pub(super) postfix: Postfix,
}

impl Servers {
    /// Starts both in `folder`, which everybody may enter. `introspection` is where Dovecot asks about tokens.
    pub(super) fn start(folder: &Path, introspection: &str) -> Servers {
        assert!(
            rustix::process::getuid().is_root(),
            "Dovecot and Postfix run as several users: `make mail` needs root, as in a container"
        );
        let ports = Ports { imaps: free_port(), submission: free_port(), lmtp: free_port() };
        make_certificate(folder);
        let postfix_folder = folder.join("postfix");
        let socket = postfix_folder.join("queue/private/auth");
        let files = Files::new(&[
            ("https://id.contoso.com/introspect", introspection.to_owned()),
            ("/etc/dovecot/oauth2.conf.ext", folder.join("oauth2.conf.ext").display().to_string()),
            ("/var/spool/postfix/private/auth", socket.display().to_string()),
        ]);
        // Postfix makes the folder in which Dovecot makes its socket.
        let postfix = Postfix::prepare(&postfix_folder, &main_cf(folder, &ports, &files), &smtpd(&ports));
        let (dovecot, dovecot_log) = start_dovecot(folder, &ports, &files);
        until("Dovecot listens", || std::net::TcpStream::connect(("127.0.0.1", ports.imaps)).is_ok());
        postfix.start();
        Servers { ports, dovecot, dovecot_log, postfix }
    }

    /// What both logged.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.dovecot_log).unwrap_or_default() + &self.postfix.log()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let pid = i32::try_from(self.dovecot.id()).ok().and_then(rustix::process::Pid::from_raw);
        let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        let _ = self.dovecot.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn make_certificate(folder: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost", "-newkey", "rsa:2048"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", "server.key", "-out", "ca.pem"])
        .current_dir(folder)
        .output()
        .expect("openssl is missing: run `make tools`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn start_dovecot(folder: &Path, ports: &Ports, files: &Files) -> (Child, PathBuf) {
    let (home, log) = (folder.join("dovecot"), folder.join("dovecot.log"));
    let mail = folder.join("mail");
    for made in [&home, &mail] {
        std::fs::create_dir(made).expect("a folder");
    }
    give(&mail);
    std::fs::write(folder.join("oauth2.conf.ext"), files.content("/etc/dovecot/oauth2.conf.ext"))
        .expect("written");
    let Ports { imaps, lmtp, .. } = ports;
    let (folder_text, user) = (folder.display(), mail_user());
    let config = format!(
        r#"protocols = imap lmtp
base_dir = {folder_text}/dovecot/run
state_dir = {folder_text}/dovecot/state
log_path = {}
listen = 127.0.0.1
ssl = required
ssl_cert = <{folder_text}/ca.pem
ssl_key = <{folder_text}/server.key
mail_location = maildir:~/Maildir
first_valid_uid = {user}
auth_mechanisms =
userdb {{
  driver = static
  args = allow_all_users=yes uid={user} gid=nogroup home={folder_text}/mail/%u
}}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
{}"#,
        log.display(),
        files.content("/etc/dovecot/local.conf")
    );
    let path = folder.join("dovecot.conf");
    std::fs::write(&path, config).expect("written");
    let dovecot = Command::new("dovecot")
        .arg("-F")
        .arg("-c")
        .arg(&path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("dovecot is missing: run `make mail`, which installs it");
    (dovecot, log)
}

/// `main.cf` of the server that takes mail from the programs.
fn main_cf(folder: &Path, ports: &Ports, files: &Files) -> String {
    let folder = folder.display();
    format!(
        "virtual_mailbox_domains = contoso.example\nvirtual_transport = lmtp:inet:127.0.0.1:{}\n\
         smtpd_tls_cert_file = {folder}/ca.pem\nsmtpd_tls_key_file = {folder}/server.key\n\
         smtpd_tls_security_level = encrypt\nsmtpd_relay_restrictions = permit_sasl_authenticated, reject\n{}",
        ports.lmtp,
        files.content("/etc/postfix/main.cf, as the server")
    )
}

fn smtpd(ports: &Ports) -> String {
    format!("127.0.0.1:{} inet n - n - - smtpd\n", ports.submission)
}

/// A Postfix with a configuration and a queue of its own.
pub(super) struct Postfix {
    folder: PathBuf,
}

impl Postfix {
    /// Writes its files. It uses no name service, no chroot and no alias.
    pub(super) fn prepare(folder: &Path, main_cf: &str, services: &str) -> Postfix {
        for made in ["etc", "queue", "data"] {
            std::fs::create_dir_all(folder.join(made)).expect("a folder");
        }
        let postfix = Postfix { folder: folder.to_owned() };
        let path = folder.display();
        let base = format!(
            "compatibility_level = 3.6\nqueue_directory = {path}/queue\ndata_directory = {path}/data\n\
             myhostname = localhost\nmydestination =\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             maillog_file = {path}/log\nmaillog_file_prefixes = /\nsmtp_host_lookup = native\nalias_maps =\n\
             alias_database =\nminimal_backoff_time = 1s\nqueue_run_delay = 1s\n"
        );
        std::fs::write(folder.join("etc/main.cf"), base + main_cf).expect("written");
        let mut master = services.to_owned();
        for (name, kind, most, command) in SERVICES {
            master.push_str(&format!("{name} {kind} - n - {most} {command}\n"));
        }
        std::fs::write(folder.join("etc/master.cf"), master).expect("written");
        let data = Command::new("chown").arg("postfix").arg(folder.join("data")).status();
        assert!(data.expect("chown").success(), "postfix is missing: run `make mail`, which installs it");
        // The queue's folders, with their owners.
        let made = postfix.command("postfix", &["check"]).status();
        assert!(made.expect("postfix is missing").success(), "{}", postfix.log());
        postfix
    }

    pub(super) fn start(&self) {
        let started = self.command("postfix", &["start"]).status().expect("postfix is missing");
        assert!(started.success(), "{}", self.log());
    }

    /// A command of Postfix on this configuration.
    pub(super) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let flag = if program == "sendmail" { "-C" } else { "-c" };
        command.arg(flag).arg(self.folder.join("etc")).args(arguments);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = self.command("postfix", &["stop"]).status();
    }
}

/// Name, kind and whether it is private, most processes, program.
const SERVICES: [(&str, &str, &str, &str); 13] = [
    ("pickup", "unix n", "1", "pickup"),
    ("cleanup", "unix n", "0", "cleanup"),
    ("qmgr", "unix n", "1", "qmgr"),
    ("tlsmgr", "unix -", "1", "tlsmgr"),
    ("rewrite", "unix -", "-", "trivial-rewrite"),
    ("bounce", "unix -", "0", "bounce"),
    ("defer", "unix -", "0", "bounce"),
    ("trace", "unix -", "0", "bounce"),
    ("lmtp", "unix -", "-", "lmtp"),
    ("anvil", "unix -", "1", "anvil"),
    ("proxymap", "unix -", "-", "proxymap"),
    ("retry", "unix -", "-", "error"),
    ("postlog", "unix-dgram n", "1", "postlogd"),
];

/// Waits until something is so.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < START, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Lets everybody enter a folder.
pub(super) fn open(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}
