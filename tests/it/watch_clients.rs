//! Clients that nobody here wrote read the stream of tokens, as docs/watch.md has them do it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::interop::node_folder;
use crate::launcher::{command, installed, repository};
use crate::pki::{self, Authority, Identity};
use crate::token_exchange::blocks;
use crate::watch::{open, records, renew};
use crate::world::{ALICE, PATIENCE, Plan, World, free_port};

/// A way to the daemon that can be cut.
struct Way {
    address: String,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    _accepts: JoinHandle<()>,
}

impl Way {
    async fn to(world: &World) -> Way {
        let daemon = world.daemon.local.strip_prefix("http://").expect("an address").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let connections: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let open = Arc::clone(&connections);
        let accepts = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.expect("accepted");
                let mut server = TcpStream::connect(&daemon).await.expect("connected");
                let copy = async move {
                    let _ended = copy_bidirectional(&mut client, &mut server).await;
                };
                open.lock().push(tokio::spawn(copy));
            }
        });
        Way { address, connections, _accepts: accepts }
    }

    /// Cuts every connection in the middle.
    fn cut(&self) {
        let open = std::mem::take(&mut *self.connections.lock());
        assert!(!open.is_empty());
        open.iter().for_each(JoinHandle::abort);
    }
}

/// A client's program, and what it prints.
struct Client {
    program: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Client {
    fn start(program: PathBuf, arguments: &[&str], folder: &Path) -> Client {
        let mut run = command(program);
        run.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut program = run.spawn().expect("it starts");
        let printed = BufReader::new(program.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in printed.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Client { program, lines }
    }

    /// The next line that is one of these.
    async fn line(&mut self, is_it: impl Fn(&str) -> bool) -> String {
        let next = async {
            loop {
                let line = self.lines.recv().await.expect("it goes on");
                if is_it(&line) {
                    return line;
                }
            }
        };
        timeout(PATIENCE, next).await.expect("it is printed in time")
    }

    /// The next token that the client used, or the code of the error that it reported.
    async fn said(&mut self) -> String {
        let line = self.line(|line| line.starts_with("use ") || line.starts_with("report ")).await;
        line.split_once(' ').expect("a word and more").1.to_owned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _gone = self.program.kill();
        let _reaped = self.program.wait();
    }
}

/// The guide's client gets the present token, the next one over a new connection without the one that it had,
/// and an error.
async fn a_client_reads_the_stream(language: &str, start: impl Fn(&str, &Path) -> Client) {
    let world = Plan::default().sections("[limits]\nstreams_per_caller = 1\n").start().await;
    world.connect("user-4711", ALICE).await;
    let way = Way::to(&world).await;
    let [code] = &blocks("docs/watch.md", language)[..] else { panic!("one example in {language}") };
    let folder = world.folder.path().join("client");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("mail-sync.key"), format!("{}\n", world.key)).expect("written");
    // At first there is no place for its stream. That passes, so it asks again.
    let other = open(&world.daemon, &world.key, "user-4711").await;
    let mut client = start(&code.replace("http://127.0.0.1:7070", &way.address), &folder);
    world
        .until("it is refused", async || !records(&world, |line| line["action"] == "refused").is_empty())
        .await;
    drop(other);
    assert_eq!(client.said().await, world.access_token("user-4711").await);
    let second = renew(&world, "user-4711").await;
    assert_eq!(client.said().await, second);
    way.cut();
    world.until("it came back", async || !way.connections.lock().is_empty()).await;
    let third = renew(&world, "user-4711").await;
    assert_eq!(client.said().await, third, "what it has is not sent again");
    let deleted =
        world.api(http::Method::DELETE, "/v1/apps/outlook/connections/user-4711", Value::Null).await;
    assert_eq!(deleted.status, 204);
    assert_eq!(client.said().await, "connection_not_found");
}

#[tokio::test]
async fn httpx_sse_reads_the_stream_as_the_guide_has_it() {
    let own = "def use(token):\n    print('use', token['access_token'], flush=True)\n\n\
               def report(problem):\n    print('report', problem['code'], flush=True)\n\n";
    a_client_reads_the_stream("python", |code, folder| {
        let python = installed("venv/bin/python", "tools");
        Client::start(python, &["-c", &format!("{own}{code}")], folder)
    })
    .await;
}

#[tokio::test]
async fn event_source_reads_the_stream_as_the_guide_has_it() {
    let own = "const use = (token) => console.log('use', token.access_token);\n\
               const report = (problem) => console.log('report', problem.code);\n";
    a_client_reads_the_stream("js", |code, folder| {
        // Packages are found beside the script.
        std::os::unix::fs::symlink(node_folder().join("node_modules"), folder.join("node_modules"))
            .expect("a link");
        std::fs::write(folder.join("client.mjs"), format!("{code}\n{own}")).expect("written");
        Client::start("node".into(), &["client.mjs"], folder)
    })
    .await;
}

#[tokio::test]
async fn curl_prints_each_token_as_it_comes() {
    let world = Plan::default().start().await;
    world.connect("user-4711", ALICE).await;
    let way = Way::to(&world).await;
    for page in ["docs/watch.md", "README.md"] {
        let block = blocks(page, "sh").into_iter().find(|block| block.contains("/token/watch"));
        let command = block.unwrap_or_else(|| panic!("{page} has a command"));
        let command = command.lines().find(|line| line.contains("/token/watch")).expect("a line").to_owned();
        let command = format!("api={} key={}; exec {command}", way.address, world.key);
        let mut client = Client::start("sh".into(), &["-c", &command], repository());
        let token = |line: &str| {
            let data: Value = serde_json::from_str(line.strip_prefix("data: ").expect("data")).expect("JSON");
            data["access_token"].clone()
        };
        let is_data = |line: &str| line.starts_with("data: ");
        assert_eq!(token(&client.line(is_data).await), json!(world.access_token("user-4711").await));
        let renewed = renew(&world, "user-4711").await;
        assert_eq!(token(&client.line(is_data).await), json!(renewed));
    }
}

/// Over HTTP/2, whose streams the listener counts in its own way; a stop ends them cleanly, too.
#[tokio::test]
async fn curl_reads_the_stream_over_http_2() {
    let server = Authority::root("servers", 48);
    let Identity { chain, key } = pki::server(&server);
    let port = free_port();
    let listener = format!(
        "[[listen.local]]\naddress = \"127.0.0.1:{port}\"\n\
         tls = {{ certificate = \"local.pem\", key = \"local.key\" }}\n"
    );
    let plan = Plan::default().sections(&listener).file("local.pem", &chain).file("local.key", &key);
    let mut world = plan.file("server-ca.pem", &server.pem()).start().await;
    world.connect("user-4711", ALICE).await;
    let url = format!("https://localhost:{port}/v1/apps/outlook/connections/user-4711/token/watch");
    let bearer = format!("Authorization: Bearer {}", world.key);
    let arguments = ["-sSNi", "--http2", "--cacert", "server-ca.pem", "-H", &bearer, &url];
    let mut client = Client::start("curl".into(), &arguments, world.folder.path());
    assert_eq!(client.line(|_| true).await.trim(), "HTTP/2 200");
    for _ in 0..2 {
        let data = client.line(|line| line.starts_with("data: ")).await;
        assert!(data.contains(&world.access_token("user-4711").await), "{data}");
        renew(&world, "user-4711").await;
    }
    client.line(|line| line.starts_with("data: ")).await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let ended = tokio::task::spawn_blocking(move || client.program.wait()).await.expect("joined");
    assert!(ended.expect("it ends").success(), "the end was clean");
}
