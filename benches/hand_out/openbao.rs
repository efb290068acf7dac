//! OpenBao beside the daemon: a read of a secret of the same size from its key-value store, by a token with a
//! policy of one line. Its storage is in memory and it writes no audit.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;

use crate::load::Client;
use crate::support::daemon::Server;
use crate::support::http_client::{Failure, request};
use crate::support::setup::free_port;

const ROOT: &str = "root-of-the-bench";
const PATIENCE: Duration = Duration::from_secs(30);

/// An OpenBao with a secret.
pub struct OpenBao {
    _process: Server,
    port: u16,
    token: String,
}

impl OpenBao {
    /// Starts it, with a secret of so many bytes.
    pub async fn start(binary: &Path, bytes: usize) -> Result<Self, Failure> {
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(binary)
            .args(["server", "-dev", "-dev-no-store-token", "-dev-root-token-id", ROOT])
            .args(["-dev-listen-address", &address])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let process = Server::new(child);
        let begun = Instant::now();
        while TcpStream::connect(&address).is_err() {
            if begun.elapsed() > PATIENCE {
                return Err("OpenBao did not start".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let ask = async |method: Method, path: &str, body: serde_json::Value| {
            let headers = [("x-vault-token", ROOT), ("content-type", "application/json")];
            let answer =
                request(method, &format!("http://{address}/v1/{path}"), &headers, body.to_string()).await?;
            match answer.status.is_success() {
                true => Ok::<_, Failure>(answer),
                false => Err(format!("{path}: {} {}", answer.status, answer.text()).into()),
            }
        };
        let secret = json!({ "data": { "access_token": "t".repeat(bytes) } });
        ask(Method::POST, "secret/data/bench", secret).await?;
        let rule = json!({ "policy": "path \"secret/data/bench\" { capabilities = [\"read\"] }" });
        ask(Method::PUT, "sys/policies/acl/bench", rule).await?;
        let made = ask(Method::POST, "auth/token/create", json!({ "policies": ["bench"] })).await?.json();
        let token = made["auth"]["client_token"].as_str().ok_or("no token")?.to_owned();
        Ok(OpenBao { _process: process, port, token })
    }

    pub fn client(&self) -> Client {
        Client::Tcp(self.port)
    }

    /// What its client sends.
    pub fn wire(&self) -> String {
        format!(
            "GET /v1/secret/data/bench HTTP/1.1\r\nhost: openbao\r\naccept: */*\r\nuser-agent: a-service/1.0\r\n\
             x-vault-token: {}\r\n\r\n",
            self.token
        )
    }
}
