//! The servers, each a process of its own: daemons with a connected account, and bare hyper.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entra_emulator::Emulator;
use tokio_rustls::TlsConnector;

use crate::bare::{Settings, Tls};
use crate::load::Client;
use crate::pki::{Authority, Identity, Leaf, connector, server};
use crate::rows::{Asks, Over, Row};
use crate::support::Failure;
use crate::support::account::{self, CONNECTION};
use crate::support::daemon::{self, Server};
use crate::support::setup::config_text::{ConfigText, EVERYTHING};
use crate::support::setup::{free_port, write_secret, write_secrets};

const CALLER: &str = "mail-sync";
const SPIFFE_ID: &str = "spiffe://bench.example/mail-sync";

/// What all servers of a run share.
pub struct Bench {
    folder: tempfile::TempDir,
    entra: Emulator,
    /// A public port for each daemon; the app's registration names them.
    public: Vec<u16>,
    key: String,
    server: Identity,
    client_ca: String,
    /// Without a client certificate, and with one.
    plain: TlsConnector,
    mutual: TlsConnector,
}

/// A daemon.
pub struct Daemon {
    _process: Server,
    tcp: u16,
    unix: PathBuf,
    tls: u16,
    mtls: u16,
}

/// A bare server.
pub struct Bare {
    _process: Server,
    port: u16,
    unix: Option<PathBuf>,
}

impl Bench {
    pub async fn start() -> Result<Self, Failure> {
        let (folder, public) = (tempfile::tempdir()?, vec![free_port()?, free_port()?]);
        let entra = account::authority(&public).await?;
        let key = write_secrets(folder.path())?;
        let (servers, callers) = (Authority::root("servers", 48), Authority::root("callers", 48));
        let (server, client_ca) = (server(&servers), callers.pem());
        for (name, content) in
            [("server.pem", &server.chain), ("server.key", &server.key), ("callers-ca.pem", &client_ca)]
        {
            write_secret(&folder.path().join(name), content)?;
        }
        let plain = connector(&servers.pem(), None);
        let mutual = connector(&servers.pem(), Some(&callers.issue(Leaf::new().uri(SPIFFE_ID))));
        let key = key.expose().to_owned();
        Ok(Bench { folder, entra, public, key, server, client_ca, plain, mutual })
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
        let with_tls = |clients: &str| {
            format!(
                "[[listen.local]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"{shared}server.pem\", \
                 key = \"{shared}server.key\"{clients} }}\n"
            )
        };
        let sections = [
            "[[listen.local]]\nunix = \"local.sock\"\n".to_owned(),
            with_tls(""),
            with_tls(&format!(", client_ca = \"{shared}callers-ca.pem\"")),
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
        let (process, mut log) = daemon::start(binary, &folder.join("tokenward.toml"))?;
        let [tcp, tls, mtls] = log.ports()?.local[..] else { return Err("no ports".into()) };
        log.read_on(drop);
        account::connect(tcp, &self.key).await?;
        Ok(Daemon { _process: process, tcp, unix: folder.join("local.sock"), tls, mtls })
    }

    /// What a row's client sends.
    pub fn wire(&self, row: &Row) -> String {
        let key = match row.asks {
            Asks::Native => account::bearer(&self.key),
            Asks::NativeOfPeer => String::new(),
            Asks::ManagedIdentity => format!("x-identity-header: {}\r\n", self.key),
            Asks::Vault => format!("x-vault-token: {}\r\n", self.key),
        };
        let target = match row.asks {
            Asks::Native | Asks::NativeOfPeer => return account::native(&key),
            Asks::ManagedIdentity => format!(
                "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fgraph.microsoft.com&client_id=outlook%3A\
                 {CONNECTION}"
            ),
            Asks::Vault => format!("/v1/outlook/creds/{CONNECTION}"),
        };
        account::get(&target, &key)
    }

    /// How a row's client reaches a daemon.
    pub fn client(&self, row: &Row, daemon: &Daemon) -> Result<Client, Failure> {
        Ok(match row.over {
            Over::Tcp => Client::Tcp(daemon.tcp),
            Over::Unix => Client::Unix(daemon.unix.clone()),
            Over::Tls => Client::Tls(daemon.tls, self.plain.clone()),
            Over::Mtls => Client::Tls(daemon.mtls, self.mutual.clone()),
        })
    }

    /// How a row's client reaches a bare server.
    pub fn client_of_bare(&self, row: &Row, bare: &Bare) -> Client {
        match (row.over, &bare.unix) {
            (_, Some(path)) => Client::Unix(path.clone()),
            (Over::Tls, None) => Client::Tls(bare.port, self.plain.clone()),
            (Over::Mtls, None) => Client::Tls(bare.port, self.mutual.clone()),
            (_, None) => Client::Tcp(bare.port),
        }
    }

    /// Starts bare hyper with this answer.
    pub fn bare(&self, row: &Row, answer: &[u8]) -> Result<Bare, Failure> {
        let unix = (row.over == Over::Unix)
            .then(|| tempfile::tempdir_in(self.folder.path()).map(|folder| folder.keep().join("bare.sock")))
            .transpose()?;
        let Identity { chain, key } = self.server.clone();
        let tls = match row.over {
            Over::Tcp | Over::Unix => None,
            Over::Tls => Some(Tls { chain, key, client_ca: None }),
            Over::Mtls => Some(Tls { chain, key, client_ca: Some(self.client_ca.clone()) }),
        };
        let settings = Settings { answer: STANDARD.encode(answer), unix: unix.clone(), tls };
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        writeln!(child.stdin.as_mut().ok_or("no input")?, "{}", serde_json::to_string(&settings)?)?;
        let mut port = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut port)?;
        Ok(Bare { _process: Server::new(child), port: port.trim().parse()?, unix })
    }
}
