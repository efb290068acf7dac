//! A daemon's files for the quickstart and the benches: keyring, caller key, client secret, configuration.

#![allow(unreachable_pub, missing_docs, dead_code, reason = "shared by the quickstart and the benches")]

#[path = "config_text.rs"]
pub mod config_text;

use std::path::Path;
use std::time::Duration;

use tokenward::callers::api_key::ApiKey;
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::keyring::files;
use tokenward::system::{SystemClock, SystemRandom};

pub use self::config_text::CLIENT_ID;
use self::config_text::ConfigText;

pub const CLIENT_SECRET: &str = "a-secret-only-tokenward-knows";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Writes what `tokenward init` would, for the stand-in and free ports.
pub fn write_configuration(
    folder: &Path,
    public: u16,
    authority: &str,
) -> Result<(std::path::PathBuf, ApiKey), Failure> {
    let key = write_secrets(folder)?;
    let config = folder.join("tokenward.toml");
    let rule = "connections = [\"user-*\"]\nscopes = [\"User.Read\", \"Mail.Read\"]\nconnect = true\n";
    let text = ConfigText {
        public_port: public,
        base_port: public,
        authority,
        sections: &config_text::caller("mail-sync", "mail-sync.keys", rule),
        ..ConfigText::default()
    };
    std::fs::write(&config, text.text())?;
    Ok((config, key))
}

/// Writes the keyring, an API key of the caller `mail-sync`, and the app's secret.
pub fn write_secrets(folder: &Path) -> Result<ApiKey, Failure> {
    let random = SystemRandom::new();
    let now = SystemClock::new().now();
    files::add(&folder.join("keyring"), &random, now)?;
    let caller = CallerName::parse("mail-sync")?;
    let lifetime = Duration::from_secs(86_400);
    let (key, _) = key_file::add(&folder.join("mail-sync.keys"), &caller, &random, now, lifetime)?;
    write_secret(&folder.join("client-secret"), CLIENT_SECRET)?;
    Ok(key)
}

/// Writes a file that only its owner may read.
pub fn write_secret(path: &Path, content: &str) -> std::io::Result<()> {
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

/// The redirect URI names the public port, so it must be known before the daemon starts.
pub fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
