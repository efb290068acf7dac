//! Daemons with a connected account, which relay to the resource.

use std::path::Path;

use entra_emulator::Emulator;

use crate::support::Failure;
use crate::support::account;
use crate::support::daemon::{self, Server};
use crate::support::setup::config_text::{ConfigText, EVERYTHING, caller};
use crate::support::setup::{free_port, write_secrets};

/// The relay of the account.
pub const HERE: &str = "/v1/apps/outlook/connections/user-1/relay/graph";

/// What all daemons of a run share.
pub struct Bench {
    folder: tempfile::TempDir,
    entra: Emulator,
    /// A public port for each daemon; the app's registration names them.
    public: Vec<u16>,
    key: String,
    resource: u16,
}

/// A daemon, and where its local API listens.
pub struct Daemon {
    pub port: u16,
    _process: Server,
}

impl Bench {
    pub async fn start(resource: u16) -> Result<Self, Failure> {
        let (folder, public) = (tempfile::tempdir()?, vec![free_port()?, free_port()?]);
        let entra = account::authority(&public).await?;
        let key = write_secrets(folder.path())?.expose().to_owned();
        Ok(Bench { folder, entra, public, key, resource })
    }

    /// The line of a head with the caller's key.
    pub fn credential(&self) -> String {
        account::bearer(&self.key)
    }

    /// Starts one of two daemons, of this build, connects an account and gets its first token.
    pub async fn daemon(&self, number: usize, binary: &Path) -> Result<Daemon, Failure> {
        let folder = tempfile::tempdir_in(self.folder.path())?.keep();
        let shared = format!("{}/", self.folder.path().display());
        let rule = format!("{EVERYTHING}relay = [\"GET graph:/v1.0/*\", \"PUT graph:/v1.0/*\"]\n");
        let sections = [
            caller("mail-sync", &format!("{shared}mail-sync.keys"), &rule),
            format!("[apps.outlook.relay]\nbases = {{ graph = \"http://127.0.0.1:{}\" }}\n", self.resource),
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
        let [port] = log.ports()?.local[..] else { return Err("no port".into()) };
        log.read_on(drop);
        account::connect(port, &self.key).await?;
        account::hand_out(port, &self.key).await?;
        Ok(Daemon { port, _process: process })
    }
}
