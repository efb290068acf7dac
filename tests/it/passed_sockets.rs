//! Sockets that the service manager passes on, as systemd does for a `.socket` unit (sd_listen_fds(3)).

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;

use crate::http_client::{Answer, Failure, exchange, request, request_unix};
use crate::world::{ALICE, Kept, Plan, Process, World};

const TOKEN: &str = "/v1/apps/outlook/connections/team-b/one/token";
/// What a shell does before it becomes the daemon: its standard input and output are the sockets.
const PASS: &str = "exec 3<&0 4<&1 </dev/null >/dev/null
    export LISTEN_FDS=2 LISTEN_FDNAMES=tokenward.socket:other.socket LISTEN_PID=$$
    exec \"$0\" \"$@\"";

/// The service manager: it has a Unix socket and a TCP socket, and passes on copies of them.
struct Manager {
    unix: UnixListener,
    tcp: TcpListener,
    path: PathBuf,
    address: SocketAddr,
}

impl Manager {
    /// Opens the sockets of a world whose daemon has ended, and configures listeners at their addresses.
    fn of(world: &World) -> Manager {
        let path = world.folder.path().join("local.sock");
        let unix = UnixListener::bind(&path).expect("bound");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o642)).expect("chmod");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = tcp.local_addr().expect("an address");
        let variable = format!("TOKENWARD__LISTEN__LOCAL__0__ADDRESS={address}\n");
        std::fs::write(world.folder.path().join("environment"), variable).expect("write");
        Manager { unix, tcp, path, address }
    }

    fn pass(&self) -> Command {
        let unix = self.unix.try_clone().expect("a copy");
        let tcp = self.tcp.try_clone().expect("a copy");
        passing(PASS, unix.into(), tcp.into())
    }

    async fn unix(&self) -> Result<Answer, Failure> {
        let stream = tokio::net::UnixStream::connect(&self.path).await?;
        exchange(stream, Method::GET, &TOKEN.parse()?, "localhost", &[], "".into()).await
    }

    async fn tcp(&self, world: &World) -> Result<Answer, Failure> {
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        let bearer = format!("Bearer {}", world.key);
        let headers = [("authorization", &*bearer)];
        exchange(stream, Method::GET, &TOKEN.parse()?, "localhost", &headers, "".into()).await
    }
}

fn passing(script: &str, one: OwnedFd, other: OwnedFd) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_tokenward")]);
    command.stdin(Stdio::from(one)).stdout(Stdio::from(other));
    command
}

/// A world with a connection, whose first daemon has ended. A caller of it is known by its user.
async fn stopped_world() -> World {
    let uid = rustix::process::geteuid().as_raw();
    let sections = format!(
        "[callers.by-user]\nauthenticate = [{{ unix_user = {uid} }}]\n[[callers.by-user.allow]]\napp = \
         \"outlook\"\nconnections = [\"team-b/*\"]\nscopes = [\"Mail.Read\"]\n"
    );
    let mut world = Plan::default().sections(&sections).start().await;
    world.connect("team-b/one", ALICE).await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    world
}

#[tokio::test]
async fn what_comes_while_no_daemon_runs_is_answered_by_the_next() {
    let mut world = stopped_world().await;
    let manager = Manager::of(&world);
    let socket_file = std::fs::metadata(&manager.path).expect("a file").ino();

    for _ in 0..2 {
        // Both wait in the kernel: nobody has accepted them.
        let both = async { tokio::join!(manager.unix(), manager.tcp(&world)) };
        let started = Process::launch_by(manager.pass(), world.folder.path());
        let ((unix, tcp), daemon) = tokio::join!(both, started);
        let unix = unix.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
        assert_eq!(unix.status, 200, "the peer's user is known: {}", unix.text());
        assert_eq!(tcp.expect("an answer").status, 200);

        for descriptor in [3, 4] {
            let info = format!("/proc/{}/fdinfo/{descriptor}", daemon.pid());
            let info = std::fs::read_to_string(info).expect("it is open");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
            let flags = u32::from_str_radix(flags, 8).expect("octal");
            assert_ne!(flags & 0o2_000_000, 0, "a child would have descriptor {descriptor}: {flags:o}");
        }
        world.daemon = daemon;
        assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
        let left = std::fs::metadata(&manager.path).expect("the file is the service manager's");
        assert_eq!((left.ino(), left.mode() & 0o777), (socket_file, 0o642), "nothing of it has changed");
    }
}

/// A store that takes connections and answers nothing holds callers and browsers up for two seconds, and
/// operators and probes not at all. What is asked needs no store, so nothing else is waited for.
#[tokio::test]
async fn a_silent_store_holds_a_start_up_for_two_seconds() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    world.redis.as_ref().expect("Redis").pause();
    let begun = Instant::now();
    world.daemon = Process::launch(world.folder.path()).await;
    let get = async |url: String| request(Method::GET, &url, &[], "").await.expect("an answer").status;
    let callers = async {
        let seen = get(format!("{}/v1/openapi.json", world.daemon.local)).await;
        (seen.as_u16(), begun.elapsed())
    };
    let browsers = async { (get(format!("{}/", world.daemon.public)).await.as_u16(), begun.elapsed()) };
    let others = async {
        let ready = get(format!("{}/readyz", world.daemon.ops)).await.as_u16();
        let socket = world.folder.path().join("admin.sock");
        let keys = request_unix(&socket, Method::GET, "/admin/v1/apps", &[], "").await;
        (ready, keys.expect("an answer").status.as_u16(), begun.elapsed())
    };
    let ((of_callers, callers_at), (of_browsers, browsers_at), (ready, of_operators, others_at)) =
        tokio::join!(callers, browsers, others);
    eprintln!("others {others_at:?}, callers {callers_at:?}, browsers {browsers_at:?}");
    assert_eq!((ready, of_operators), (503, 200), "{}", world.daemon.log());
    assert_eq!((of_callers, of_browsers), (401, 200), "{}", world.daemon.log());
    // (From before its start. A slow machine may be later.)
    let wait = Duration::from_secs(2);
    assert!(callers_at >= wait && browsers_at >= wait, "{callers_at:?} {browsers_at:?}");
    world.redis.as_ref().expect("Redis").resume();
    world.daemon.until_ready().await;
}

/// (The clients go on while this test waits for the daemon's end.)
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restarts_under_load_fail_no_request() {
    let mut world = stopped_world().await;
    let manager = Manager::of(&world);
    world.daemon = Process::launch_by(manager.pass(), world.folder.path()).await;
    let (key, manager) = (world.key.clone(), Arc::new(manager));
    let (ends, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients = (0..4).map(|at| {
        let (manager, key) = (manager.clone(), key.clone());
        let (ends, answered) = (ends.clone(), answered.clone());
        tokio::spawn(async move {
            let bearer = format!("Bearer {key}");
            while !ends.load(Ordering::Relaxed) {
                let (uri, headers) = (TOKEN.parse().expect("a path"), [("authorization", &*bearer)]);
                let answer = match at % 2 {
                    0 => {
                        let stream = tokio::net::UnixStream::connect(&manager.path).await.expect("connected");
                        exchange(stream, Method::GET, &uri, "localhost", &[], "".into()).await
                    }
                    _ => {
                        let stream =
                            tokio::net::TcpStream::connect(manager.address).await.expect("connected");
                        exchange(stream, Method::GET, &uri, "localhost", &headers, "".into()).await
                    }
                };
                assert_eq!(answer.expect("an answer").status, 200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    for _ in 0..8 {
        let before = answered.load(Ordering::Relaxed);
        world.until("requests are answered", async || answered.load(Ordering::Relaxed) >= before + 100).await;
        assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
        world.daemon = Process::launch_by(manager.pass(), world.folder.path()).await;
    }
    ends.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request failed");
    }
}

#[tokio::test]
async fn sockets_for_another_process_are_not_taken() {
    let mut world = stopped_world().await;
    let manager = Manager::of(&world);
    let another = PASS.replace("$$", "1");
    let (path, address) = (manager.path.clone(), manager.address);
    drop(manager);
    std::fs::remove_file(&path).expect("removed");
    // (Elsewhere, so that nothing is in the way.)
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("bound");
    let unix = UnixListener::bind(path.with_extension("elsewhere")).expect("bound");
    world.daemon =
        Process::launch_by(passing(&another, unix.into(), elsewhere.into()), world.folder.path()).await;
    assert_eq!(world.daemon.local, format!("http://{address}"), "it opened its own");
    assert!(path.exists());
    assert_eq!(world.daemon.terminate(), Some(0));
    assert!(!path.exists(), "and removed its own");
}

#[tokio::test]
async fn what_no_listener_can_take_is_left_out_and_named() {
    let mut world = stopped_world().await;
    let manager = Manager::of(&world);
    let folder = world.folder.path().to_owned();
    let tcp = || -> OwnedFd { manager.tcp.try_clone().expect("a copy").into() };
    let unix = || -> OwnedFd { manager.unix.try_clone().expect("a copy").into() };

    let odd = "passes `other.socket`, which is no socket that listens";
    let datagrams = UnixDatagram::bind(folder.join("datagrams")).expect("bound");
    let file = std::fs::File::open("/dev/null").expect("open");
    // As with `Accept=yes`.
    let connection = std::net::TcpStream::connect(manager.address).expect("connected");
    let stranger = TcpListener::bind("127.0.0.1:0").expect("bound");
    let at = stranger.local_addr().expect("an address");
    let unused = format!("a socket at {at} (`other.socket`), where no listener");
    // (The daemon opens the TCP listener itself.)
    let another = "TOKENWARD__LISTEN__LOCAL__0__ADDRESS=127.0.0.1:0\n";
    std::fs::write(folder.join("environment"), another).expect("write");
    let passed: [(OwnedFd, &str); 4] =
        [(stranger.into(), &unused), (datagrams.into(), odd), (file.into(), odd), (connection.into(), odd)];
    for (socket, said) in passed {
        world.daemon = Process::launch_by(passing(PASS, unix(), socket), &folder).await;
        world.daemon.until_logged(said).await;
        assert_eq!(manager.unix().await.expect("an answer").status, 200, "{said}");
        assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    }

    let said = refused(&folder, passing(&PASS.replace("FDS=2", "FDS=many"), unix(), tcp()));
    assert!(said.contains("LISTEN_FDS is `many`"), "{said}");

    std::fs::remove_file(&manager.path).expect("removed");
    let said = refused(&folder, manager.pass());
    assert!(said.contains(&*manager.path.to_string_lossy()) && said.contains("its file is gone"), "{said}");
}

/// What a daemon says that does not start.
fn refused(folder: &Path, mut command: Command) -> String {
    let environment = std::fs::read_to_string(folder.join("environment")).expect("written");
    command.envs(environment.lines().filter_map(|line| line.split_once('=')));
    command.args(["serve", "--config"]).arg(folder.join("tokenward.toml")).stderr(Stdio::piped());
    let ended = command.spawn().and_then(std::process::Child::wait_with_output).expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    said
}
