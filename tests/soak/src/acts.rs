//! Deliberate acts on connections while faults come and go: deletes, the kill switch, pauses, verdicts of the
//! authority. Each act and its answer is recorded; the checker compares the callers' ledger with them.
//!
//! Acts on one connection follow each other: each takes its turn, and after a lost answer it waits until the
//! act can no longer take effect. A client that does not wait cannot know what it did.

use parking_lot::{Mutex as StdMutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use entra_emulator::{RevokeKind, User};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::client::Client;
use crate::ledger::{Act, Connected, Deed, Ending};
use crate::random::Random;
use crate::world::{REVOKED, World, now};

/// Time after which a request with a lost answer has ended: a process stands still for 12 s at most …
const UNKNOWN_FOR: Duration = Duration::from_secs(15);
/// … and a link delays its data for 6 s, the rest of a request that was answered with an error.
const REFUSED_FOR: Duration = Duration::from_secs(8);
/// Wait after a refused act, as in a client with a backoff.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The kill switch has 5 s to reach every replica; nobody signs in again before that.
const REVOKED_FOR: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(11));
/// Time between an act and its reversal.
const ACT: Duration = Duration::from_secs(7);
/// Longest time in which a block, or its end, may go unnoticed: a blocked connection is tried again after a
/// minute.
const NOTICED_WITHIN: Duration = Duration::from_secs(45);
const HEALED_WITHIN: Duration = Duration::from_secs(90);

/// The acts on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Tokens are asked for.
    Plain,
    /// It is deleted now and then, and connected again.
    Deleted,
    /// It is paused and resumed.
    Paused,
    /// Its tenant is revoked as a whole.
    Revoked,
    /// The authority ends its grant.
    Judged,
    /// The authority blocks its user for a while.
    Blocked,
}

/// Returns the role of the connection with this number. No two of them share a user.
pub fn role_of(number: u16) -> Role {
    match number % 20 {
        1 | 2 => Role::Deleted,
        3 => Role::Paused,
        4 => Role::Judged,
        5 => Role::Blocked,
        6 | 7 => Role::Revoked,
        _ => Role::Plain,
    }
}

/// The turns of connections, the acts, and the sign-ins that connections live by.
pub struct Acts {
    world: Arc<World>,
    turns: Vec<Mutex<()>>,
    done: StdMutex<Vec<Act>>,
    connections: StdMutex<Vec<Connected>>,
    /// Until when an earlier act may still take effect.
    unsettled: StdMutex<HashMap<u16, Instant>>,
}

impl Acts {
    /// Nothing was done yet.
    pub fn new(world: Arc<World>) -> Self {
        Acts {
            turns: world.connections.iter().map(|_| Mutex::new(())).collect(),
            done: StdMutex::default(),
            connections: StdMutex::new(world.connections.clone()),
            unsettled: StdMutex::default(),
            world,
        }
    }

    /// The lock for acts on this connection.
    pub fn turn(&self, number: u16) -> &Mutex<()> {
        &self.turns[usize::from(number)]
    }

    /// The connections with their sign-ins, and everything that was done.
    pub fn written_down(&self) -> (Vec<Connected>, Vec<Act>) {
        let mut done = self.done.lock().clone();
        done.sort_by_key(|act| (act.started, act.ended));
        (self.connections().clone(), done)
    }

    /// A connection was seen to live by this sign-in.
    pub fn lives_by(&self, number: u16, family: u64) {
        let families = &mut self.connections()[usize::from(number)].families;
        if !families.contains(&family) {
            families.push(family);
        }
    }

    /// The user signs in, once; whether that was acknowledged.
    pub async fn sign_in(&self, number: u16) -> bool {
        let started = now();
        let one = &self.world.connections[usize::from(number)];
        let replica = &self.world.replicas[0];
        let life = replica.life();
        let done = self.world.connect(&one.name, &one.user).await.is_ok();
        self.note(Act {
            deed: Deed::SignIn,
            connections: vec![number],
            replica: Some(replica.index),
            life,
            started,
            ended: now(),
            done,
            status: if done { 200 } else { 0 },
        });
        done
    }

    /// The user signs in until it is known that the connection lives by that.
    async fn sign_in_anew(&self, client: &mut Client, number: u16) {
        let newest = self.connections()[usize::from(number)].families.iter().copied().max();
        let name = &self.world.connections[usize::from(number)].name;
        self.settled(&[number]).await;
        loop {
            let done = self.sign_in(number).await;
            for _ in 0..10 {
                let call = client.ask(&self.world.replicas[0], number, name, false).await;
                if let Some(token) = call.token.filter(|token| Some(token.family) > newest) {
                    self.lives_by(number, token.family);
                    return;
                }
                if !done {
                    break;
                }
                sleep(AGAIN_AFTER / 4).await;
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// Tells any replica, again and again until one acknowledges it.
    async fn tell(&self, deed: Deed, numbers: &[u16], random: &mut Random) {
        self.settled(numbers).await;
        loop {
            let index = random.index(self.world.replicas.len());
            let (life, started) = (self.world.replicas[index].life(), now());
            let status = self.say(deed, numbers[0], index).await;
            let ended = now();
            let gone = deed == Deed::Delete && status == 404;
            let done = (200..300).contains(&status) || gone;
            self.note(Act {
                deed,
                connections: numbers.to_vec(),
                replica: Some(self.world.replicas[index].index),
                life,
                started,
                ended,
                done,
                status,
            });
            if done {
                break;
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// Waits until nothing may happen any more that was begun before.
    async fn settled(&self, numbers: &[u16]) {
        let until = {
            let unsettled = self.unsettled.lock();
            numbers.iter().filter_map(|number| unsettled.get(number).copied()).max()
        };
        if let Some(until) = until {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    async fn say(&self, deed: Deed, number: u16, index: usize) -> u16 {
        let one = &self.world.connections[usize::from(number)];
        let path = format!("/v1/apps/outlook/connections/{}", one.name.replace('/', "%2F"));
        let paused = |paused: bool| json!({ "paused": paused });
        let at = format!("/admin{path}");
        match deed {
            Deed::Delete => self.world.tell(index, Method::DELETE, &path).await,
            Deed::Pause => self.world.operate(index, Method::PATCH, &at, &paused(true)).await,
            Deed::Resume => self.world.operate(index, Method::PATCH, &at, &paused(false)).await,
            Deed::Revoke => {
                let user = User::work(format!("anybody@{REVOKED}"));
                let tenant = json!({ "tenant": user.tenant_id(), "even_if_unknown": true });
                self.world.operate(index, Method::POST, "/admin/v1/revocations", &tenant).await
            }
            Deed::SignIn | Deed::Verdict | Deed::Block | Deed::Lift => 0,
        }
    }

    /// The authority is told something of a user.
    fn judge(&self, deed: Deed, number: u16) {
        let user = &self.world.connections[usize::from(number)].user;
        let started = now();
        let told = match deed {
            Deed::Verdict => self.world.entra.revoke_user(user, RevokeKind::GrantRevoked),
            Deed::Block => self.world.entra.revoke_user(user, RevokeKind::ConditionalAccess),
            _ => self.world.entra.restore_user(user),
        };
        self.note(Act {
            deed,
            connections: vec![number],
            replica: None,
            life: 0,
            started,
            ended: now(),
            done: told.is_ok(),
            status: 0,
        });
    }

    /// Waits until a connection is shown with this status, or it takes too long.
    async fn shown_as(&self, number: u16, status: &str, within: Duration) -> bool {
        let begun = Instant::now();
        let name = self.world.connections[usize::from(number)].name.replace('/', "%2F");
        let path = format!("/v1/apps/outlook/connections/{name}");
        while begun.elapsed() < within {
            let shown = self.world.api_of(0, Method::GET, &path, Value::Null).await;
            if shown.is_ok_and(|shown| shown["status"] == status) {
                return true;
            }
            sleep(AGAIN_AFTER).await;
        }
        false
    }

    fn note(&self, act: Act) {
        if !act.done {
            let until = Instant::now() + if act.status == 0 { UNKNOWN_FOR } else { REFUSED_FOR };
            let mut unsettled = self.unsettled.lock();
            for number in &act.connections {
                unsettled.entry(*number).and_modify(|at| *at = until.max(*at)).or_insert(until);
            }
        }
        self.done.lock().push(act);
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Connected>> {
        self.connections.lock()
    }
}

/// Does all of it until then, puts everything right again but for one of each kind, and says how those must
/// stand.
pub async fn act_until(acts: Arc<Acts>, until: Instant, seed: u64) -> HashMap<u16, Ending> {
    let of = |role: Role| -> Vec<u16> {
        let all = 0..u16::try_from(acts.world.connections.len()).unwrap_or(u16::MAX);
        all.filter(|number| role_of(*number) == role).collect()
    };
    let actor = |role: Role, salt: u64| Actor {
        acts: &acts,
        numbers: of(role),
        random: Random::new(seed.wrapping_mul(1000) + salt),
        client: acts.world.client(),
        until,
    };
    let (mut deletes, mut pauses) = (actor(Role::Deleted, 1), actor(Role::Paused, 2));
    let (mut revokes, mut verdicts) = (actor(Role::Revoked, 3), actor(Role::Judged, 4));
    let mut blocks = actor(Role::Blocked, 5);
    let (deleted, paused, judged, (), ()) =
        tokio::join!(deletes.delete(), pauses.pause(), verdicts.judge(), revokes.revoke(), blocks.block());
    [(deleted, Ending::Deleted), (paused, Ending::Paused), (judged, Ending::Dead)]
        .into_iter()
        .filter_map(|(number, ending)| Some((number?, ending)))
        .collect()
}

/// Who does one kind of act.
struct Actor<'a> {
    acts: &'a Acts,
    numbers: Vec<u16>,
    random: Random,
    client: Client,
    until: Instant,
}

impl Actor<'_> {
    /// Whether there is something to do, and time for what takes so long.
    fn goes_on(&self, takes: Duration) -> bool {
        !self.numbers.is_empty() && Instant::now() + takes < self.until
    }

    fn any(&mut self) -> u16 {
        self.numbers[self.random.index(self.numbers.len())]
    }

    async fn pause_for(&mut self, least: u64, most: u64) {
        sleep(self.random.between(Duration::from_millis(least), Duration::from_millis(most))).await;
    }

    /// The turn with the last one is never given back: it stays as it is then.
    async fn keep_last(&self) -> Option<u16> {
        let last = *self.numbers.last()?;
        std::mem::forget(self.acts.turn(last).lock().await);
        Some(last)
    }

    async fn delete(&mut self) -> Option<u16> {
        while self.goes_on(ACT) {
            let number = self.any();
            let turn = self.acts.turn(number).lock().await;
            self.acts.tell(Deed::Delete, &[number], &mut self.random).await;
            self.pause_for(1_000, 7_000).await;
            self.acts.sign_in_anew(&mut self.client, number).await;
            drop(turn);
            self.pause_for(500, 3_000).await;
        }
        let last = self.keep_last().await?;
        self.acts.tell(Deed::Delete, &[last], &mut self.random).await;
        Some(last)
    }

    async fn pause(&mut self) -> Option<u16> {
        while self.goes_on(ACT) {
            let number = self.any();
            let turn = self.acts.turn(number).lock().await;
            self.acts.tell(Deed::Pause, &[number], &mut self.random).await;
            self.pause_for(3_500, 7_000).await;
            self.acts.tell(Deed::Resume, &[number], &mut self.random).await;
            drop(turn);
            self.pause_for(1_000, 6_000).await;
        }
        let last = self.keep_last().await?;
        self.acts.tell(Deed::Pause, &[last], &mut self.random).await;
        Some(last)
    }

    async fn revoke(&mut self) {
        while self.goes_on(REVOKED_FOR.1) {
            let mut turns = Vec::new();
            for number in &self.numbers {
                turns.push(self.acts.turn(*number).lock().await);
            }
            self.acts.tell(Deed::Revoke, &self.numbers, &mut self.random).await;
            sleep(self.random.between(REVOKED_FOR.0, REVOKED_FOR.1)).await;
            for number in &self.numbers {
                self.acts.sign_in_anew(&mut self.client, *number).await;
            }
            drop(turns);
            self.pause_for(3_000, 15_000).await;
        }
    }

    /// Their users sign in again as soon as anybody says that they must.
    async fn judge(&mut self) -> Option<u16> {
        while self.goes_on(Duration::ZERO) {
            let number = self.any();
            self.acts.judge(Deed::Verdict, number);
            self.pause_for(25_000, 40_000).await;
        }
        let last = self.keep_last().await?;
        self.acts.judge(Deed::Verdict, last);
        Some(last)
    }

    /// Half of the lifted ones heal when an operator has them tried, the others by themselves; the last one
    /// must not take long.
    async fn block(&mut self) {
        while self.goes_on(ACT) {
            let number = self.any();
            self.acts.judge(Deed::Block, number);
            self.acts.shown_as(number, "blocked", NOTICED_WITHIN).await;
            self.acts.judge(Deed::Lift, number);
            let hurry = self.random.once_in(2) || Instant::now() + HEALED_WITHIN > self.until;
            if hurry {
                self.try_now(number).await;
            } else {
                self.acts.shown_as(number, "active", HEALED_WITHIN).await;
            }
            self.pause_for(3_000, 10_000).await;
        }
    }

    async fn try_now(&mut self, number: u16) {
        let name = self.acts.world.connections[usize::from(number)].name.replace('/', "%2F");
        let path = format!("/admin/v1/apps/outlook/connections/{name}");
        let begun = Instant::now();
        while begun.elapsed() < NOTICED_WITHIN {
            self.acts.world.operate(0, Method::POST, &path, &Value::Null).await;
            if self.acts.shown_as(number, "active", AGAIN_AFTER * 3).await {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_played_and_most_connections_are_plain() {
        let many = |role: Role| (0..40).filter(|number| role_of(*number) == role).count();
        for role in [Role::Paused, Role::Judged, Role::Blocked] {
            assert_eq!(many(role), 2, "{role:?}");
        }
        assert_eq!((many(Role::Deleted), many(Role::Revoked), many(Role::Plain)), (4, 4, 26));
    }
}
