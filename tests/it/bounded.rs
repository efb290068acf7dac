//! A peer that announces any amount of data gets no more accepted than the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::redis_server::RedisServer;
use crate::world::{ALICE, Plan, World, text};

/// Between a daemon and its Redis, and lies when it is told to: whoever asks for a session is answered with
/// what it announces, and then with as much as is taken.
struct Liar {
    port: u16,
    lies: Arc<AtomicBool>,
    announces: Arc<parking_lot::Mutex<&'static str>>,
    /// The most that one connection took of a lie, in bytes.
    taken: Arc<AtomicUsize>,
}

impl Liar {
    async fn before(redis: u16) -> Liar {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let liar = Liar { port, lies: Arc::default(), announces: Arc::default(), taken: Arc::default() };
        let (lies, announces, taken) = (liar.lies.clone(), liar.announces.clone(), liar.taken.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (lies, announces, taken) = (lies.clone(), announces.clone(), taken.clone());
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", redis)).await.expect("Redis listens");
                    let (mut from_server, mut to_server) = server.into_split();
                    let (mut from_client, mut to_client) = client.into_split();
                    let mut asked = vec![0; 64 * 1024];
                    let mut answered = vec![0; 64 * 1024];
                    loop {
                        tokio::select! {
                            read = from_client.read(&mut asked) => match read {
                                Ok(count) if count > 0 => {
                                    let session = b"pending:{session:";
                                    let asks = asked[..count].windows(17).any(|part| part == session);
                                    if asks && lies.load(Ordering::SeqCst) {
                                        break;
                                    }
                                    if to_server.write_all(&asked[..count]).await.is_err() { return; }
                                }
                                _ => return,
                            },
                            read = from_server.read(&mut answered) => match read {
                                Ok(count) if count > 0 => {
                                    if to_client.write_all(&answered[..count]).await.is_err() { return; }
                                }
                                _ => return,
                            },
                        }
                    }
                    let announced = *announces.lock();
                    let _ = to_client.write_all(announced.as_bytes()).await;
                    let piece = b":1\r\n".repeat(16 * 1024);
                    for pieces in 1..=(300 * 1024 * 1024 / piece.len()) {
                        match to_client.write_all(&piece).await {
                            Ok(()) => taken.fetch_max(pieces * piece.len(), Ordering::SeqCst),
                            Err(_) => return,
                        };
                    }
                });
            }
        });
        liar
    }
}

/// The most memory that the process ever had, in bytes.
fn peak(world: &World) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a figure");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

#[tokio::test]
async fn a_redis_that_lies_is_hung_up_on_before_its_answer_is_taken() {
    const MIB: usize = 1024 * 1024;
    let redis = RedisServer::start();
    let liar = Liar::before(redis.port()).await;
    let world = Plan::default()
        .store(&format!("kind = \"redis\"\nurl = \"redis://127.0.0.1:{}/0\"", liar.port))
        .start()
        .await;
    world.connect("team-a/alice", ALICE).await;
    let session = world.start_session(json!({ "app": "outlook", "connection": "team-a/other" })).await;
    let id = text(&session, "id");
    let path = format!("/v1/connect-sessions/{id}");
    let before = peak(&world);
    for (announced, said) in [
        ("$314572800\r\n", "Redis announced a value of 314572800 bytes"),
        ("*100000000\r\n", "Redis announced an answer of 100000001 values"),
        ("%50000000\r\n", "Redis announced an answer of 100000001 values"),
        // Whole answers of many small values: each is held, and many are asked for at one time.
        ("*400000\r\n", "Redis announced an answer of 400001 values"),
        ("*40000\r\n", "Redis announced an answer of 40001 values"),
        ("=314572800\r\ntxt:", "Redis announced a value of 314572800 bytes"),
        ("*3\r\n$3000000\r\n", "Redis announced"),
    ] {
        *liar.announces.lock() = announced;
        liar.taken.store(0, Ordering::SeqCst);
        liar.lies.store(true, Ordering::SeqCst);
        let answer = world.api(Method::GET, &path, Value::Null).await;
        assert_eq!(answer.status, 503, "{announced:?}: {}", answer.text());
        assert_eq!(answer.json()["code"], "store_unavailable", "{announced:?}");
        // (On a busy machine the first try may have ended at its time limit.)
        world
            .until(said, async || {
                let is_said = world.daemon.log().contains(said);
                if !is_said {
                    world.api(Method::GET, &path, Value::Null).await;
                }
                is_said
            })
            .await;
        liar.lies.store(false, Ordering::SeqCst);
        // (A connection may leave some in the buffers of two sockets, which the kernel bounds. How many
        // connections it takes depends on how busy the machine is.)
        let taken = liar.taken.load(Ordering::SeqCst);
        assert!(taken < 60 * MIB, "{announced:?}: {taken} bytes were taken");
        // And nothing is the matter afterwards.
        world
            .until("the session is there", async || {
                world.api(Method::GET, &path, Value::Null).await.status == 200
            })
            .await;
        assert_eq!(world.token("team-a/alice").await.status, 200);
    }
    let grown = peak(&world).saturating_sub(before);
    assert!(grown < 48 * MIB, "{grown} bytes more than before");
}
