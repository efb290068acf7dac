//! The servers, each a process of its own: daemons with a connected account, and bare hyper.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entra_emulator::{App, Emulator, User};
use http::Method;
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock as _;
use tokenward::keyring::files;
use tokenward::system::{SystemClock, SystemRandom};
use tokio_rustls::TlsConnector;

use crate::bare::{Settings, Tls};
use crate::http_client::{Browser, Failure, request};
use crate::load::Client;
use crate::pki::{Authority, Leaf, connector, server};
use crate::rows::{Asks, Over, Row};
use crate::setup::config_text::{ConfigText, EVERYTHING};
use crate::setup::{CLIENT_ID, CLIENT_SECRET, free_port};

const CALLER: &str = "mail-sync";
const SPIFFE_ID: &str = "spiffe://bench.example/mail-sync";
const CONNECTION: &str = "user-1";

/// What all servers of a run share.
pub struct Bench {
    folder: tempfile::TempDir,
    entra: Emulator,
    /// A public port for each daemon; the app's registration names them.
    public: Vec<u16>,
    key: String,
    tls: Tls,
    connector: TlsConnector,
}

/// A daemon.
pub struct Daemon {
    _process: Server,
    tcp: u16,
    unix: PathBuf,
    tls: u16,
}

/// A bare server.
pub struct Bare {
    _process: Server,
    port: u16,
    unix: Option<PathBuf>,
}

/// A process that ends with this.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    pub async fn start() -> Result<Self, Failure> {
        let (folder, public) = (tempfile::tempdir()?, vec![free_port()?, free_port()?]);
        let callback = |port| format!("http://localhost:{port}/callback/outlook");
        let app = App::new(CLIENT_ID).secret(CLIENT_SECRET);
        let entra = Emulator::builder()
            .app(public.iter().fold(app, |app, port| app.redirect_uri(callback(port))))
            .user(User::work("alice@contoso.example"))
            .start()
            .await?;
        let (random, now) = (SystemRandom::new(), SystemClock::new().now());
        files::add(&folder.path().join("keyring"), &random, now)?;
        let caller = CallerName::parse(CALLER)?;
        let day = Duration::from_secs(86_400);
        let (key, _) = key_file::add(&folder.path().join("mail-sync.keys"), &caller, &random, now, day)?;
        let (servers, callers) = (Authority::root("servers", 48), Authority::root("callers", 48));
        let identity = server(&servers);
        let tls = Tls { chain: identity.chain, key: identity.key, client_ca: callers.pem() };
        for (name, content) in [
            ("client-secret", CLIENT_SECRET),
            ("server.pem", &tls.chain),
            ("server.key", &tls.key),
            ("callers-ca.pem", &tls.client_ca),
        ] {
            write_secret(&folder.path().join(name), content)?;
        }
        let connector = connector(&servers.pem(), Some(&callers.issue(Leaf::new().uri(SPIFFE_ID))));
        Ok(Bench { folder, entra, public, key: key.expose().to_owned(), tls, connector })
    }

    /// Starts one of two daemons, of this build, connects an account and gets its first token.
    pub async fn daemon(&self, number: usize, binary: &Path) -> Result<Daemon, Failure> {
        let folder = tempfile::tempdir_in(self.folder.path())?.keep();
        let shared = format!("{}/", self.folder.path().display());
        let by_peer = |name: &str, way: &str| {
            format!(
                "[callers.{name}]\nauthenticate = [{{ {way} }}]\n[[callers.{name}.allow]]\napp = \"outlook\"\n\
                 {EVERYTHING}\n"
            )
        };
        let sections = [
            "[[listen.local]]\nunix = \"local.sock\"\n".to_owned(),
            format!(
                "[[listen.local]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"{shared}server.pem\", \
                 key = \"{shared}server.key\", client_ca = \"{shared}callers-ca.pem\" }}\n"
            ),
            by_peer(CALLER, &format!("api_keys = \"{shared}mail-sync.keys\"")),
            by_peer("neighbour", &format!("unix_user = {}", rustix::process::getuid().as_raw())),
            by_peer("mesh", &format!("spiffe = \"{SPIFFE_ID}\"")),
        ];
        let text = ConfigText {
            folder: &shared,
            public_port: self.public[number],
            base_port: self.public[number],
            authority: &self.entra.authority("common"),
            sections: &sections.concat(),
            ..ConfigText::default()
        };
        std::fs::write(folder.join("tokenward.toml"), text.text())?;
        let mut child = Command::new(binary)
            .args(["serve", "--config"])
            .arg(folder.join("tokenward.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(child.stderr.take().ok_or("no log")?).lines();
        let process = Server(child);
        let addresses = loop {
            let line = log.next().ok_or("the daemon did not start")??;
            let event: serde_json::Value = serde_json::from_str(&line)?;
            if event["message"] == "tokenward serves" {
                break event["local"].as_str().ok_or("no addresses")?.to_owned();
            }
        };
        // Its log is read on, so that it never waits for that.
        std::thread::spawn(move || log.for_each(drop));
        let port = |at: usize| {
            let one = addresses.trim_matches(['[', ']']).split(',').nth(at)?;
            one.rsplit(':').next()?.trim().parse().ok()
        };
        let tcp = port(0).ok_or("no port")?;
        let daemon = Daemon {
            _process: process,
            tcp,
            unix: folder.join("local.sock"),
            tls: port(1).ok_or("no port")?,
        };
        self.connect(tcp).await?;
        Ok(daemon)
    }

    async fn connect(&self, port: u16) -> Result<(), Failure> {
        let (local, bearer) = (format!("http://127.0.0.1:{port}"), format!("Bearer {}", self.key));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let sessions = format!("{local}/v1/connect-sessions");
        let body = format!(r#"{{"app":"outlook","connection":"{CONNECTION}"}}"#);
        let session = request(Method::POST, &sessions, &headers, body).await?.json();
        let link = session["connect_url"].as_str().ok_or("no link")?;
        let mut browser = Browser::default();
        let pressed = browser.post(link, "").await?;
        browser.follow(&pressed.location(), |_| false).await?;
        let one = format!("{sessions}/{}", session["id"].as_str().ok_or("no id")?);
        let account = request(Method::GET, &one, &headers, "").await?.json()["account"].clone();
        let confirm = serde_json::json!({ "account": { "tid": account["tid"], "oid": account["oid"] } });
        let confirmed =
            request(Method::POST, &format!("{one}/confirm"), &headers, confirm.to_string()).await?;
        assert_eq!(confirmed.status, 200, "{}", confirmed.text());
        Ok(())
    }

    /// What a row's client sends.
    pub fn wire(&self, row: &Row) -> String {
        let key = match row.asks {
            Asks::Native => format!("authorization: Bearer {}\r\n", self.key),
            Asks::NativeOfPeer => String::new(),
            Asks::ManagedIdentity => format!("x-identity-header: {}\r\n", self.key),
            Asks::Vault => format!("x-vault-token: {}\r\n", self.key),
        };
        let target = match row.asks {
            Asks::Native | Asks::NativeOfPeer => format!("/v1/apps/outlook/connections/{CONNECTION}/token"),
            Asks::ManagedIdentity => format!(
                "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fgraph.microsoft.com&client_id=outlook%3A\
                 {CONNECTION}"
            ),
            Asks::Vault => format!("/v1/outlook/creds/{CONNECTION}"),
        };
        // (As a service's client sends it.)
        format!(
            "GET {target} HTTP/1.1\r\nhost: tokenward\r\naccept: */*\r\nuser-agent: a-service/1.0\r\n{key}\r\n"
        )
    }

    /// How a row's client reaches a daemon.
    pub fn client(&self, row: &Row, daemon: &Daemon) -> Result<Client, Failure> {
        Ok(match row.over {
            Over::Tcp => Client::Tcp(daemon.tcp),
            Over::Unix => Client::Unix(daemon.unix.clone()),
            Over::Mtls => Client::Tls(daemon.tls, self.connector.clone()),
        })
    }

    /// How a row's client reaches a bare server.
    pub fn client_of_bare(&self, row: &Row, bare: &Bare) -> Client {
        match (row.over, &bare.unix) {
            (_, Some(path)) => Client::Unix(path.clone()),
            (Over::Mtls, None) => Client::Tls(bare.port, self.connector.clone()),
            (_, None) => Client::Tcp(bare.port),
        }
    }

    /// Starts bare hyper with this answer.
    pub fn bare(&self, row: &Row, answer: &[u8]) -> Result<Bare, Failure> {
        let unix = (row.over == Over::Unix)
            .then(|| tempfile::tempdir_in(self.folder.path()).map(|folder| folder.keep().join("bare.sock")))
            .transpose()?;
        let Tls { chain, key, client_ca } = &self.tls;
        let tls = (row.over == Over::Mtls).then(|| Tls {
            chain: chain.clone(),
            key: key.clone(),
            client_ca: client_ca.clone(),
        });
        let settings = Settings { answer: STANDARD.encode(answer), unix: unix.clone(), tls };
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        writeln!(child.stdin.as_mut().ok_or("no input")?, "{}", serde_json::to_string(&settings)?)?;
        let mut port = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut port)?;
        Ok(Bare { _process: Server(child), port: port.trim().parse()?, unix })
    }
}

fn write_secret(path: &Path, content: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}
