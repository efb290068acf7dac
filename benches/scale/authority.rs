//! An authority that says yes to every refresh, whatever grant it is for: seeded grants are nobody's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::seed;
use crate::support::Failure;

/// The authority, for as long as its runtime lives.
pub struct Authority {
    port: u16,
    refreshes: Arc<AtomicU64>,
}

impl Authority {
    /// Listens on a free port.
    pub async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (port, refreshes) = (listener.local_addr()?.port(), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&refreshes);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, port, Arc::clone(&counted)));
            }
        });
        Ok(Authority { port, refreshes })
    }

    /// As a configuration names it.
    pub fn url(&self) -> String {
        format!("{}/common/v2.0", self.origin())
    }

    /// Where it is.
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many refreshes it has answered.
    pub fn refreshes(&self) -> u64 {
        self.refreshes.load(Ordering::Acquire)
    }
}

async fn serve(mut stream: TcpStream, port: u16, refreshes: Arc<AtomicU64>) {
    let mut read = Vec::new();
    loop {
        let Some(head) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
            match stream.read_buf(&mut read).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            }
        };
        let text = String::from_utf8_lossy(&read[..head]).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let whole = head + 4 + length.unwrap_or(0);
        while read.len() < whole {
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        }
        read.drain(..whole);
        let body = if text.starts_with("post") {
            refreshes.fetch_add(1, Ordering::AcqRel);
            token_answer()
        } else if text.contains("openid-configuration") {
            document(port)
        } else {
            r#"{"keys":[]}"#.to_owned()
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn document(port: u16) -> String {
    let origin = format!("http://127.0.0.1:{port}");
    serde_json::json!({
        "issuer": format!("{origin}/{{tenantid}}/v2.0"),
        "authorization_endpoint": format!("{origin}/common/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{origin}/common/oauth2/v2.0/token"),
        "jwks_uri": format!("{origin}/common/discovery/v2.0/keys"),
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "cloud_instance_name": "microsoftonline.com",
        "msgraph_host": "graph.microsoft.com",
    })
    .to_string()
}

fn token_answer() -> String {
    serde_json::json!({
        "token_type": "Bearer",
        "scope": seed::SCOPES.join(" "),
        "expires_in": 3600,
        "access_token": seed::random_text(seed::ACCESS_TOKEN),
        "refresh_token": seed::random_text(seed::REFRESH_TOKEN),
    })
    .to_string()
}
