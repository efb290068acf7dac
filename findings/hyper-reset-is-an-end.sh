#!/usr/bin/env bash
# The Rust crate hyper 1.12.0, as a client over HTTP/2: where a server resets an answer's stream with NO_ERROR in the middle of the
# body, the body ends without an error, even if content-length says that more was to come. With CANCEL it is an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "reset"
version = "0.0.0"
edition = "2024"

[dependencies]
bytes = "=1.12.2"
h2 = "=0.4.20"
http = "=1.5.0"
http-body-util = "=0.1.5"
hyper = { version = "=1.12.0", default-features = false, features = ["client", "http2"] }
hyper-util = { version = "=0.1.21", default-features = false, features = ["tokio"] }
tokio = { version = "=1.54.1", features = ["rt", "io-util", "macros"] }

[workspace]
TOML
cat >"$folder/src/main.rs" <<'RUST'
use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for reason in [Reason::NO_ERROR, Reason::CANCEL] {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let mut server = h2::server::handshake(far).await.unwrap();
            let (_, mut respond) = server.accept().await.unwrap().unwrap();
            let head = Response::builder().header("content-length", "10").body(()).unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            body.send_data(Bytes::from_static(b"half"), false).unwrap();
            // What is written is sent before the reset.
            tokio::spawn(async move {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                body.send_reset(reason);
            });
            while server.accept().await.is_some() {}
        });
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://resource/").body(Empty::<Bytes>::new()).unwrap();
        let answer = client.send_request(request).await.unwrap();
        let said = answer.headers()["content-length"].to_str().unwrap().to_owned();
        let read = match answer.into_body().collect().await {
            Ok(body) => format!("whole, {} of {said} bytes", body.to_bytes().len()),
            Err(_) => "an error".to_owned(),
        };
        println!("{reason:?}: {read}");
    }
}
RUST
cargo run -q --manifest-path "$folder/Cargo.toml" --target-dir "$folder/target" | tee "$folder/seen"
echo "hyper 1.12.0: a body that is reset with NO_ERROR is whole"
diff "$folder/seen" - <<'SEEN'
NO_ERROR: whole, 4 of 10 bytes
CANCEL: an error
SEEN
