//! Callers: services that keep asking for tokens of their connections, and record what they get.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::acts::{Acts, Role, role_of};
use crate::client::Client;
use crate::doors::{DOORS, Whose};
use crate::ledger::Call;
use crate::random::Random;
use crate::world::World;

/// Pause of a caller after a refusal, as in a client with a backoff.
pub const LOOK_AWAY: Duration = Duration::from_millis(100);
/// One in this many requests reports the caller's earlier token: well below the ten forced renewals in 10 s
/// that a connection allows.
const REPORT_ONCE_IN: u64 = 100;

/// Asks until told to stop, with this many callers at a time and this many requests a second. Half of the
/// requests come through the native API's first door, the others through every door in turn. Connections that
/// need their user are sent to `need`.
pub async fn crowd(
    world: Arc<World>,
    (callers, rate, seed): (u16, u32, u64),
    stop: Arc<AtomicBool>,
    need: mpsc::Sender<u16>,
) -> Vec<Call> {
    let ledger = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    let pause = Duration::from_secs(1) * u32::from(callers) / rate.max(1);
    for caller in 0..callers {
        let (world, ledger, stop, need) = (world.clone(), ledger.clone(), stop.clone(), need.clone());
        tasks.spawn(async move {
            let mut random = Random::new(seed ^ (u64::from(caller) << 32));
            let mut native = world.client();
            let own = DOORS.iter().skip(usize::from(caller)).step_by(usize::from(callers));
            let mut own: Vec<Client> = own.map(|door| Client::new(door, world.shared.clone())).collect();
            let mut calls = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let replica = &world.replicas[random.index(world.replicas.len())];
                let number = random.index(world.connections.len());
                let name = &world.connections[number].name;
                let short = random.once_in(10);
                let client = match own.len() {
                    1.. if random.once_in(2) => {
                        let which = random.index(own.len());
                        &mut own[which]
                    }
                    _ => &mut native,
                };
                let connection = u16::try_from(number).expect("connections have numbers of 16 bits");
                let reported = match random.once_in(REPORT_ONCE_IN) {
                    true => client.report(replica, connection, name).await,
                    false => None,
                };
                let call = match reported {
                    Some(call) => call,
                    None => client.ask(replica, connection, name, short).await,
                };
                let refused = call.status == 0;
                if client.door().whose == Whose::Connection {
                    if needs_its_user(&call) {
                        // A full queue has it already, most likely; it comes again.
                        let _ = need.try_send(connection);
                    }
                    calls.push(call);
                }
                let pause = if refused { pause.max(LOOK_AWAY) } else { pause };
                tokio::time::sleep(random.between(Duration::ZERO, pause * 2)).await;
            }
            ledger.lock().append(&mut calls);
        });
    }
    drop(need);
    while tasks.join_next().await.is_some() {}
    std::mem::take(&mut ledger.lock())
}

/// Returns true if the user must sign in. A missing connection counts only if it was deleted on purpose:
/// otherwise it is a fault and must not be repaired.
fn needs_its_user(call: &Call) -> bool {
    match call.code.as_deref() {
        Some("reauthorization_required") => true,
        Some("connection_not_found") => matches!(role_of(call.connection), Role::Deleted | Role::Revoked),
        _ => false,
    }
}

/// The users: they sign in again for connections that need it, until told to stop.
pub async fn users(
    world: Arc<World>,
    acts: Arc<Acts>,
    mut asked: mpsc::Receiver<u16>,
    stop: Arc<AtomicBool>,
) {
    let mut client = world.client();
    while let Some(number) = asked.recv().await {
        // Another act is under way and knows what the connection needs; if it still needs its user
        // afterwards, it comes again.
        let Ok(_turn) = acts.turn(number).try_lock() else { continue };
        let name = &world.connections[usize::from(number)].name;
        // Until the sign-in that the connection lives by is known: a confirmation's answer may have been
        // lost.
        while !stop.load(Ordering::Relaxed) {
            // The replica at which they are connected: others take up to a second to see it.
            let call = client.ask(&world.replicas[0], number, name, false).await;
            if let Some(token) = &call.token {
                acts.lives_by(number, token.family);
                break;
            }
            if !needs_its_user(&call) || !acts.sign_in(number).await {
                tokio::time::sleep(LOOK_AWAY * 5).await;
            }
        }
    }
}
