//! An authority in memory. The text of every token says whose it is, of which grant and generation, and when
//! it really dies. A ledger records every call.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::faults::{AuthorityWeather, Dice, Mutant};
use super::refreshes::{OnlyRefreshes, Refreshes};
use super::tasks::{Pid, World};
use crate::authority::{Authority, Fate, RefreshRequest, Refreshed, RefusedAnswer, TokenAnswer};
use crate::domain::account::PERSONAL_TENANT;
use crate::domain::remarks::Remarks;
use crate::domain::scope::ScopeNaming;
use crate::domain::secret::{AccessToken, RefreshToken};
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::domain::verdict::{
    AuthorityError, AuthorityFailure, BlockReason, Disposition, GrantFate, ReauthReason,
};
use crate::refresh::Settings;

/// The resource of scopes that name none.
pub(crate) const GRAPH: &str = "https://graph.example";
/// The other resource.
pub(crate) const OTHER: &str = "https://other.example";

/// What an authority does about a used refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It stays valid.
    Entra,
    /// A second use ends the whole grant.
    Strict,
}

/// A grant as the authority knows it: all refresh tokens of one sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Family(pub(crate) u64);

/// The content of an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) user: u32,
    pub(crate) family: Family,
    /// Generation of the refresh token in the same answer.
    pub(crate) generation: u64,
    /// Number of the authority's answer.
    pub(crate) serial: u64,
    pub(crate) dead_at: Duration,
}

impl Stamp {
    /// Parses an access token.
    pub(crate) fn of_access(token: &str) -> Self {
        let numbers = numbers(token);
        Stamp {
            user: u32::try_from(numbers[0]).unwrap_or(u32::MAX),
            family: Family(numbers[1]),
            generation: numbers[2],
            serial: numbers[3],
            dead_at: Duration::from_millis(numbers[4]),
        }
    }

    /// Returns family and generation of a refresh token.
    pub(crate) fn of_refresh(token: &str) -> (Family, u64) {
        let numbers = numbers(token);
        (Family(numbers[1]), numbers[2])
    }

    fn access_token(&self) -> AccessToken {
        let millis = self.dead_at.as_millis();
        AccessToken::new(format!(
            "at.{}.{}.{}.{}.{millis}",
            self.user, self.family.0, self.generation, self.serial
        ))
    }

    fn refresh_token(&self) -> RefreshToken {
        RefreshToken::new(format!("rt.{}.{}.{}.{}.0", self.user, self.family.0, self.generation, self.serial))
    }
}

fn numbers(token: &str) -> [u64; 5] {
    let mut parts = token.split('.').skip(1).map(|part| part.parse().expect("this authority made it"));
    std::array::from_fn(|_| parts.next().expect("this authority made it"))
}

/// One use of a refresh token.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) pid: Pid,
    pub(crate) replica: usize,
    pub(crate) family: Family,
    /// Generation of the refresh token that was sent.
    pub(crate) generation: u64,
    /// The user's tenant, if the account names one.
    pub(crate) tenant: Option<String>,
    pub(crate) begun: Duration,
    pub(crate) processed: Option<Duration>,
    pub(crate) ended: Option<Duration>,
    /// Generation in its answer.
    pub(crate) rotated_to: Option<u64>,
    /// True if the whole answer came back to a live process.
    pub(crate) reached: bool,
}

/// Learns of calls; the checker implements it.
pub(crate) trait Watch: Send + Sync {
    /// A call begins, while these are under way.
    fn called(&self, call: &Call, under_way: &[Call]);
    /// A second use of a refresh token ended its grant. The calls that got a new token for it came before.
    fn reused(&self, call: &Call, rotated: &[Call]);
    /// A process was told to wait with calls for this tenant until then.
    fn asked_to_wait(&self, call: &Call, until: Duration);
}

#[derive(Debug, Clone, Copy, Default)]
struct User {
    revoked: bool,
    blocked: bool,
    personal: bool,
}

#[derive(Debug, Clone, Copy)]
struct Grant {
    user: u32,
    newest: u64,
    alive: bool,
    /// When it was refused without a reason, if it has not worked since.
    misjudged_at: Option<Duration>,
    /// It was refused with a true verdict.
    judged: bool,
}

struct State {
    users: BTreeMap<u32, User>,
    grants: BTreeMap<Family, Grant>,
    serial: u64,
    calls: Vec<Call>,
    weather: AuthorityWeather,
    /// Throttled tenants, and until when.
    throttled: BTreeMap<Option<String>, Duration>,
    faults: u64,
}

/// The authority itself. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SimIssuer {
    inner: Arc<Issuer>,
}

struct Issuer {
    world: World,
    dice: Dice,
    mode: Mode,
    mutant: Mutant,
    life: Duration,
    sluggish: bool,
    naming: ScopeNaming,
    watch: Arc<dyn Watch>,
    state: Mutex<State>,
}

/// The authority's answer, before the network.
enum Word {
    Tokens { stamp: Stamp, rotated: bool },
    Refusal(Disposition, u16),
}

impl SimIssuer {
    pub(crate) fn new(
        world: World,
        dice: Dice,
        mode: Mode,
        mutant: Mutant,
        life: Duration,
        sluggish: bool,
        watch: Arc<dyn Watch>,
    ) -> Self {
        let naming = match mode {
            Mode::Entra => ScopeNaming::Entra { graph: GRAPH.to_owned() },
            Mode::Strict => ScopeNaming::Plain,
        };
        let state = State {
            users: BTreeMap::new(),
            grants: BTreeMap::new(),
            serial: 0,
            calls: Vec::new(),
            weather: AuthorityWeather::default(),
            throttled: BTreeMap::new(),
            faults: 0,
        };
        let issuer =
            Issuer { world, dice, mode, mutant, life, sluggish, naming, watch, state: Mutex::new(state) };
        SimIssuer { inner: Arc::new(issuer) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }

    /// Makes the authority room of one process.
    pub(crate) fn client(
        &self,
        replica: usize,
        pid: Pid,
        clock: Arc<dyn Clock>,
        settings: &Settings,
    ) -> impl Authority + use<> {
        let issuer = self.clone();
        OnlyRefreshes {
            naming: issuer.inner.naming.clone(),
            may_replay: issuer.inner.mode == Mode::Entra,
            answers: Arc::new(SimAuthority {
                issuer,
                replica,
                pid,
                clock,
                timeout: settings.authority_timeout,
            }),
        }
    }

    pub(crate) fn add_user(&self, user: u32, personal: bool) {
        self.state().users.insert(user, User { personal, ..User::default() });
    }

    /// Signs a user in: returns a new grant and its first tokens.
    pub(crate) fn sign_in(&self, user: u32) -> (Family, RefreshToken, AccessToken, Duration) {
        let mut state = self.state();
        state.serial += 1;
        let family = Family(state.serial);
        let grant = Grant { user, newest: 1, alive: true, misjudged_at: None, judged: false };
        state.grants.insert(family, grant);
        if let Some(user) = state.users.get_mut(&user) {
            user.revoked = false;
        }
        let dead_at = self.inner.world.now() + self.inner.life;
        let stamp = Stamp { user, family, generation: 1, serial: state.serial, dead_at };
        (family, stamp.refresh_token(), stamp.access_token(), self.inner.life)
    }

    /// Revokes the user's grants; only a new sign-in helps.
    pub(crate) fn revoke(&self, user: u32) {
        let mut state = self.state();
        for grant in state.grants.values_mut().filter(|grant| grant.user == user) {
            grant.alive = false;
        }
        if let Some(user) = state.users.get_mut(&user) {
            user.revoked = true;
        }
    }

    /// Sets whether a policy refuses the user.
    pub(crate) fn block(&self, user: u32, blocked: bool) {
        if let Some(user) = self.state().users.get_mut(&user) {
            user.blocked = blocked;
        }
    }

    pub(crate) fn set_weather(&self, weather: AuthorityWeather) {
        self.state().weather = weather;
    }

    pub(crate) fn change_weather(&self, change: impl FnOnce(&mut AuthorityWeather)) {
        change(&mut self.state().weather);
    }

    /// Returns true if a second use of a refresh token ends its grant.
    pub(crate) fn punishes_reuse(&self) -> bool {
        self.inner.mode == Mode::Strict
    }

    /// Returns the tenant in this user's account.
    pub(crate) fn tenant_of(&self, user: u32) -> Option<String> {
        let personal = self.state().users.get(&user).is_some_and(|user| user.personal);
        match (personal, self.inner.mode) {
            (true, _) => Some(PERSONAL_TENANT.to_owned()),
            (false, Mode::Entra) => Some(format!("tenant-{}", user % 2)),
            (false, Mode::Strict) => None,
        }
    }

    /// Answers for a tenant with 429 until then.
    pub(crate) fn throttle(&self, tenant: Option<String>, until: Duration) {
        self.state().throttled.insert(tenant, until);
    }

    /// Ends all throttling.
    pub(crate) fn throttle_nobody(&self) {
        self.state().throttled.clear();
    }

    /// Returns true if the authority accepts a grant.
    pub(crate) fn lives(&self, family: Family) -> bool {
        self.state().grants.get(&family).is_some_and(|grant| grant.alive)
    }

    /// Returns true if a grant's refresh token of this generation is unsettled: the last call with it brought
    /// no answer, or an earlier one used it up and its answer was lost.
    pub(crate) fn is_in_doubt(&self, family: Family, generation: u64) -> bool {
        let state = self.state();
        let of_it =
            || state.calls.iter().filter(|call| (call.family, call.generation) == (family, generation));
        let is_lost = |call: &Call| call.ended.is_some() && !call.reached;
        of_it().any(|call| call.rotated_to.is_some() && !call.reached)
            || of_it().max_by_key(|call| call.begun).is_some_and(is_lost)
    }

    /// Returns true if a call used its refresh token up after its caller had given up, and after a later call
    /// with the same token had worked without bringing a new one. The receiver of that answer cannot know
    /// about the first call.
    pub(crate) fn came_after_a_later_one(&self, late: &Call) -> bool {
        let was_given_up = late.ended.is_some_and(|ended| late.processed.is_some_and(|at| at > ended));
        let worked = |call: &Call| {
            (call.family, call.generation) == (late.family, late.generation)
                && call.begun > late.begun
                && call.processed < late.processed
                && call.reached
                && call.rotated_to.is_none()
        };
        was_given_up && !late.reached && self.state().calls.iter().any(worked)
    }

    /// Returns true if there was a true verdict on a grant.
    pub(crate) fn judged(&self, family: Family) -> bool {
        self.state().grants.get(&family).is_some_and(|grant| grant.judged)
    }

    /// Cuts off a process: nothing reaches it any more.
    pub(crate) fn hang_up(&self, pid: Pid) {
        let now = self.inner.world.now();
        for call in self.state().calls.iter_mut().filter(|call| call.pid == pid) {
            call.ended.get_or_insert(now);
        }
    }

    /// Returns the number of calls, and of those that met a fault.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let state = self.state();
        (state.calls.len() as u64, state.faults)
    }

    fn begin(&self, replica: usize, pid: Pid, refresh_token: &str) -> usize {
        let (family, generation) = Stamp::of_refresh(refresh_token);
        let begun = self.inner.world.now();
        let user = self.state().grants.get(&family).map(|grant| grant.user);
        let tenant = user.and_then(|user| self.tenant_of(user));
        let call = Call {
            pid,
            replica,
            family,
            generation,
            tenant,
            begun,
            processed: None,
            ended: None,
            rotated_to: None,
            reached: false,
        };
        let (number, under_way) = {
            let mut state = self.state();
            let same = |other: &&Call| other.family == family && other.ended.is_none();
            let under_way: Vec<Call> = state.calls.iter().filter(same).cloned().collect();
            state.calls.push(call.clone());
            (state.calls.len() - 1, under_way)
        };
        self.inner.watch.called(&call, &under_way);
        number
    }

    /// Processes the call `number`.
    fn process(&self, number: usize) -> Word {
        let now = self.inner.world.now();
        let mut state = self.state();
        let call = state.calls[number].clone();
        state.calls[number].processed = Some(now);
        let weather = state.weather;
        let chance = |times| self.inner.dice.of_thousand(times);
        if weather.down || chance(weather.transient) {
            state.faults += 1;
            let asked = chance(300).then(|| self.inner.dice.millis(500, 3000));
            return Word::Refusal(Disposition::RetryAfter(asked), 503);
        }
        if weather.throttled {
            state.faults += 1;
            return Word::Refusal(Disposition::RetryAfter(Some(self.inner.dice.millis(1000, 8000))), 429);
        }
        if let Some(until) = state.throttled.get(&call.tenant).filter(|until| **until > now) {
            let asked = Duration::from_millis(u64::try_from((*until - now).as_millis()).unwrap_or(0))
                + Duration::from_millis(1);
            state.faults += 1;
            return Word::Refusal(Disposition::RetryAfter(Some(asked)), 429);
        }
        if weather.rejects_app {
            state.faults += 1;
            return Word::Refusal(Disposition::NextCredential, 401);
        }
        let grant = *state.grants.get(&call.family).expect("this authority made it");
        let user = state.users.get(&grant.user).copied().unwrap_or_default();
        let dead = Word::Refusal(Disposition::Reauthorize(ReauthReason::GrantRevoked, GrantFate::Dead), 400);
        let judge = |state: &mut State| {
            if let Some(grant) = state.grants.get_mut(&call.family) {
                grant.judged = true;
            }
        };
        if !grant.alive || user.revoked {
            judge(&mut state);
            return dead;
        }
        if user.blocked {
            judge(&mut state);
            return Word::Refusal(Disposition::Blocked(BlockReason::PolicyBlocked), 400);
        }
        if self.inner.mode == Mode::Strict && call.generation != grant.newest {
            judge(&mut state);
            if let Some(grant) = state.grants.get_mut(&call.family) {
                grant.alive = false;
            }
            let rotated = |other: &&Call| {
                other.family == call.family
                    && other.generation == call.generation
                    && other.rotated_to.is_some()
            };
            let rotated: Vec<Call> = state.calls.iter().filter(rotated).cloned().collect();
            let call = state.calls[number].clone();
            drop(state);
            self.inner.watch.reused(&call, &rotated);
            return dead;
        }
        if user.personal && grant.misjudged_at.is_none() && chance(weather.bad_token) {
            state.faults += 1;
            if let Some(grant) = state.grants.get_mut(&call.family) {
                grant.misjudged_at = Some(now);
            }
            return dead;
        }
        state.serial += 1;
        let rotated = !chance(100);
        let generation = if rotated { grant.newest + 1 } else { call.generation };
        if let Some(grant) = state.grants.get_mut(&call.family) {
            grant.newest = grant.newest.max(generation);
            // A call that was under way does not count: whoever asks once more must not be misjudged again.
            if grant.misjudged_at.is_some_and(|at| at < call.begun) {
                grant.misjudged_at = None;
            }
        }
        if rotated {
            state.calls[number].rotated_to = Some(generation);
        }
        let user =
            if self.inner.mutant == Mutant::WrongUser && chance(100) { grant.user + 1 } else { grant.user };
        let dead_at = now + self.inner.life;
        Word::Tokens {
            stamp: Stamp { user, family: call.family, generation, serial: state.serial, dead_at },
            rotated,
        }
    }
}

/// The authority room of one process.
struct SimAuthority {
    issuer: SimIssuer,
    replica: usize,
    pid: Pid,
    clock: Arc<dyn Clock>,
    timeout: Duration,
}

fn failure(disposition: Disposition, status: Option<u16>, cause: &str) -> AuthorityFailure {
    AuthorityFailure {
        doing: "refreshing a grant",
        cause: cause.to_owned(),
        disposition,
        answer: AuthorityError { status, ..AuthorityError::default() },
        claims: None,
    }
}

impl SimAuthority {
    async fn use_token(&self, request: &RefreshRequest<'_>) -> Result<Refreshed, AuthorityFailure> {
        let issuer = &self.issuer;
        let dice = &issuer.inner.dice;
        let (requested_at, begun) = (self.clock.now(), self.clock.monotonic());
        // Name resolution and key agreement come before anything is sent.
        self.clock.sleep(dice.millis(0, 60)).await;
        if self.clock.monotonic().saturating_sub(begun) >= self.timeout && dice.of_thousand(500) {
            return Err(failure(Disposition::RetryAfter(None), None, "nothing was sent in time"));
        }
        let number = issuer.begin(self.replica, self.pid, request.refresh_token.expose());
        let weather = issuer.state().weather;
        let drawn = |times| dice.of_thousand(times);
        let (lost_before, lost_after) = (drawn(weather.lost_before), drawn(weather.lost_after));
        let (slow, garbage) = (drawn(weather.slow), drawn(weather.garbage));
        if lost_before || lost_after || slow || garbage {
            issuer.state().faults += 1;
        }
        let (answer, answered) = oneshot::channel();
        let server = issuer.clone();
        let longest = match (slow, issuer.inner.sluggish) {
            (true, _) => 6000,
            (false, true) => 2500,
            (false, false) => 150,
        };
        let way = async move {
            let (world, dice) = (&server.inner.world, &server.inner.dice);
            world.sleep(dice.millis(1, longest)).await;
            if lost_before {
                return;
            }
            let word = server.process(number);
            world.sleep(dice.millis(1, longest)).await;
            if !lost_after {
                let _ = answer.send(word);
            }
        };
        issuer.inner.world.spawn(super::tasks::WORLD, "a call of the authority", Box::pin(way));
        let left = self.timeout.saturating_sub(self.clock.monotonic().saturating_sub(begun));
        // A lost connection is noticed at once or never.
        let patience = if (lost_before || lost_after) && drawn(500) { left / 8 } else { left };
        let waiting = async {
            match answered.await {
                Ok(word) => Some(word),
                Err(_) => std::future::pending().await,
            }
        };
        let word = tokio::select! {
            biased;
            word = waiting => word,
            () = self.clock.sleep(patience) => None,
        };
        let garbled = garbage && word.is_some();
        // Some garbage has a readable refresh token.
        let replaces = garbled && matches!(word, Some(Word::Tokens { rotated: true, .. })) && drawn(500);
        {
            let mut state = issuer.state();
            let call = &mut state.calls[number];
            call.ended = Some(issuer.inner.world.now());
            call.reached = word.is_some() && (!garbled || replaces);
        }
        let lost = || failure(Disposition::OutcomeUnknown, None, "no whole answer came");
        let word = word.ok_or_else(lost)?;
        if garbled {
            return match word {
                Word::Tokens { stamp, .. } if replaces => {
                    let cause = "the access token cannot be read";
                    Ok(Refreshed::Refused(Box::new(RefusedAnswer {
                        rule: "access_token".to_owned(),
                        fate: Fate::Replaced(stamp.refresh_token()),
                        failure: failure(Disposition::RetryAfter(None), Some(200), cause),
                    })))
                }
                Word::Tokens { .. } => Err(lost()),
                // An answer that nobody understands: about one grant, or about a rejected app.
                Word::Refusal(_, status @ (400 | 401)) => {
                    Err(failure(Disposition::Unclear, Some(status), "the answer is no JSON"))
                }
                Word::Refusal(_, status) => {
                    Err(failure(Disposition::RetryAfter(None), Some(status), "the answer is no JSON"))
                }
            };
        }
        if let Word::Refusal(Disposition::RetryAfter(Some(asked)), 429) = word {
            let call = issuer.state().calls[number].clone();
            issuer.inner.watch.asked_to_wait(&call, issuer.inner.world.now() + asked);
        }
        match word {
            // It says the same about an ended grant and about a rejected app.
            Word::Refusal(_, status @ (400 | 401)) if weather.mumbles() => {
                Err(failure(Disposition::Unclear, Some(status), "the authority refuses and does not say why"))
            }
            Word::Refusal(disposition, status) => {
                let dead = Disposition::Reauthorize(ReauthReason::GrantRevoked, GrantFate::Dead);
                let disposition = match (issuer.inner.mutant, disposition) {
                    (Mutant::TransientIsVerdict, Disposition::RetryAfter(_)) => dead,
                    (Mutant::VerdictIsTransient, verdict) if verdict.is_verdict() => {
                        Disposition::RetryAfter(None)
                    }
                    (_, disposition) => disposition,
                };
                Err(failure(disposition, Some(status), "the authority refused"))
            }
            Word::Tokens { stamp, rotated } => {
                let life = issuer.inner.life;
                let expires_in = if issuer.inner.mutant == Mutant::LongLives { life * 2 } else { life };
                let words = request.scopes.iter().filter(|scope| !scope.is_openid());
                Ok(Refreshed::Tokens(Box::new(TokenAnswer {
                    access_token: stamp.access_token(),
                    requested_at,
                    expires_in,
                    refresh_in: drawn(200).then_some(life / 2),
                    refresh_token: rotated.then(|| stamp.refresh_token()),
                    refresh_token_ends_at: None,
                    scopes: words.map(|scope| scope.wire().to_owned()).collect(),
                    account: None,
                    remarks: Remarks::default(),
                    cae: false,
                })))
            }
        }
    }
}

impl Refreshes for SimAuthority {
    fn refresh<'a>(
        &'a self,
        request: RefreshRequest<'a>,
    ) -> BoxFuture<'a, Result<Refreshed, AuthorityFailure>> {
        Box::pin(async move { self.use_token(&request).await })
    }
}
