//! The secrets by which this process proves itself to Redis: the password for Redis, the one for the
//! sentinels, and the files of TLS. Each can be replaced while everything serves.
//!
//! An operator does two things, in either order: writes the file, and tells Redis. In between the two do not
//! fit, so:
//!
//! - **The files are checked every second** ([`super::way::keep_up`]), and with each new connection. New
//!   content is offered to Redis over the open connections. These need not be made anew, since a refused AUTH
//!   leaves a connection as it was.
//! - **A new connection offers the file's content, and if that is refused an earlier accepted one**, over the
//!   same connection. Two accepted ones are remembered: the servers do not learn of a new one at the same
//!   moment, and ACLs are not replicated.
//! - **TLS cannot be changed beneath a connection.** So another connection is made beside it, and replaces it
//!   if it can be made.
//! - **Unusable content counts as not written:** an empty or half-written file, a key that does not fit its
//!   certificate.
//!
//! A refusal is logged once and reported to the observer. The observer also learns when new content is in use
//! everywhere: from then on the old one may be removed. [`super::renewal`] decides when to offer again and
//! what to report.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use ::redis::{Cmd, ErrorKind, RedisError, RedisResult, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::config::{Location, PasswordSource, RedisConfig, TlsSource};
use super::failure::{describe, refusal};
use super::renewal::{Outlook, Refusal, is_due, offers, outlook};
use super::tls::{RedisTls, client_config};
use super::wire::Wire;
use crate::domain::time::Clock;
use crate::store::observed::StoreObserver;

/// How many accepted contents are remembered.
const REMEMBERED: usize = 2;
/// The answer to AUTH is one short line.
const LONGEST_ANSWER: usize = 4096;

/// Never printed.
pub(super) type Password = Arc<Zeroizing<String>>;

/// All of it.
pub(super) struct Access {
    pub(super) password: Option<Login>,
    pub(super) sentinel_password: Option<Login>,
    pub(super) tls: Option<Tls>,
}

impl Access {
    /// The files of TLS are read at once, to check that they are usable.
    pub(super) fn new(config: &RedisConfig, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let standing = |secret, key, advice| Told {
            secret,
            key,
            advice,
            clock: Arc::clone(clock),
            observer: config.observer.clone(),
        };
        let login = |username: &Option<String>, source: &PasswordSource, words, told| Login {
            username: username.clone(),
            source: Arc::clone(source),
            words,
            standing: Standing::new(told),
        };
        let told = standing("password", "store.password_file", PASSWORD_ADVICE);
        let password =
            config.password.as_ref().map(|source| login(&config.username, source, describe as Words, told));
        let sentinel_password = match &config.location {
            Location::Sentinels(sentinels) => sentinels.password.as_ref().map(|source| {
                let told =
                    standing("sentinel_password", "store.sentinel_password_file", SENTINEL_PASSWORD_ADVICE);
                login(&sentinels.username, source, refusal as Words, told)
            }),
            _ => None,
        };
        let told = standing("tls", "store.ca_file, client_certificate and client_key", TLS_ADVICE);
        let tls = config
            .tls
            .as_ref()
            .map(|source| Tls { source: Arc::clone(source), standing: Standing::new(told) });
        if let Some(tls) = &tls {
            let usable = tls.look()?;
            tls.standing.accepted(None, &usable);
        }
        Ok(Access { password, sentinel_password, tls })
    }

    /// Whether any secret can be replaced.
    pub(super) fn is_needed(&self) -> bool {
        self.password.is_some() || self.sentinel_password.is_some() || self.tls.is_some()
    }

    /// Reads the files.
    pub(super) fn look(&self) {
        for login in self.password.iter().chain(&self.sentinel_password) {
            let _is_remembered = login.look();
        }
        if let Some(tls) = &self.tls {
            let _is_remembered = tls.look();
        }
    }

    /// Reports the state of each file, if it changed.
    pub(super) fn settle(&self) {
        for login in self.password.iter().chain(&self.sentinel_password) {
            login.standing.settle();
        }
        if let Some(tls) = &self.tls {
            tls.standing.settle();
        }
    }

    /// Begins a connection with the present files of TLS; if that fails, with those of the last success. Only
    /// if those work were the present ones to blame.
    pub(super) async fn by_tls<T, F>(
        &self,
        at: Option<&str>,
        attempt: impl Fn(Option<Arc<RedisTls>>) -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = Result<T, String>> + Send,
    {
        let Some(tls) = &self.tls else { return attempt(None).await };
        let file = tls.look();
        let mut failed = None;
        for with in tls.standing.one_after_the_other(at)? {
            match attempt(Some(Arc::clone(&with))).await {
                Ok(done) => {
                    if let (Some(cause), Ok(file)) = (failed, file) {
                        tls.standing.refused(at, &file, cause);
                    }
                    tls.standing.accepted(at, &with);
                    return Ok(done);
                }
                Err(cause) => failed = failed.or(Some(cause)),
            }
        }
        Err(failed.unwrap_or_default())
    }
}

const PASSWORD_ADVICE: &str = "write the right password to the file, or make it one of the user's at every \
                               Redis server (`ACL SETUSER <user> ><password>`)";
const SENTINEL_PASSWORD_ADVICE: &str = "write the right password to the file, or make it one of the user's \
                                        at every sentinel (`ACL SETUSER <user> ><password>`)";
const TLS_ADVICE: &str = "write files that belong together and that Redis accepts";

/// An error in words, for a user.
type Words = fn(&RedisError, &str) -> String;

/// A user and where its password comes from.
pub(super) struct Login {
    username: Option<String>,
    source: PasswordSource,
    words: Words,
    standing: Standing<Password>,
}

impl Login {
    /// Sends AUTH over a new connection. The most promising content goes first where that matters: a sentinel
    /// is connected to every few seconds, and would refuse the same content again.
    pub(super) async fn say(
        &self,
        at: Option<&str>,
        is_patient: bool,
        wire: &mut dyn Wire,
    ) -> Result<Password, String> {
        let _is_remembered = self.look();
        let mut first = None;
        for password in self.standing.offers(at, is_patient)? {
            match ask(wire, &self.auth(&password)).await {
                Ok(()) => {
                    self.standing.accepted(at, &password);
                    return Ok(password);
                }
                Err(error) => {
                    let cause = self.describe(&error);
                    if !matches!(error.code(), Some("WRONGPASS" | "NOAUTH")) {
                        return Err(cause);
                    }
                    self.standing.refused(at, &password, cause.clone());
                    // The error is about the file's content, since that is what an operator has to correct.
                    first = first.or(Some(cause));
                }
            }
        }
        Err(first.unwrap_or_default())
    }

    /// The AUTH to send over an open connection that uses `in_use`.
    pub(super) fn due(&self, at: &str, in_use: Option<&Password>) -> Option<Password> {
        self.standing.due(at, in_use)
    }

    pub(super) fn auth(&self, password: &Password) -> Cmd {
        let mut auth = ::redis::cmd("AUTH");
        if let Some(username) = &self.username {
            auth.arg(username);
        }
        auth.arg(password.as_str());
        auth
    }

    pub(super) fn accepted(&self, at: &str, password: &Password) {
        self.standing.accepted(Some(at), password);
    }

    pub(super) fn refused(&self, at: &str, password: &Password, error: &RedisError) {
        self.standing.refused(Some(at), password, self.describe(error));
    }

    pub(super) fn describe(&self, error: &RedisError) -> String {
        (self.words)(error, self.username.as_deref().unwrap_or("default"))
    }

    fn look(&self) -> Result<Password, String> {
        let read = (self.source)().and_then(|password| match password.is_empty() {
            true => Err("it is empty".to_owned()),
            false => Ok(Arc::new(password)),
        });
        self.standing.see(read)
    }
}

/// Sends something over a connection that nobody else uses yet. The client library can do that for one
/// password only.
async fn ask(wire: &mut dyn Wire, command: &Cmd) -> RedisResult<()> {
    let packed = Zeroizing::new(command.get_packed_command());
    wire.write_all(&packed).await?;
    wire.flush().await?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    // Nothing follows the line, since nothing else was asked.
    while !answer.ends_with(b"\r\n") && answer.len() < LONGEST_ANSWER {
        let read = wire.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        answer.extend_from_slice(&buffer[..read]);
    }
    match ::redis::parse_redis_value(&answer)?.extract_error()? {
        Value::Okay => Ok(()),
        _ => Err((ErrorKind::UnexpectedReturnType, "AUTH is answered with OK").into()),
    }
}

/// The files of TLS.
pub(super) struct Tls {
    source: TlsSource,
    standing: Standing<Arc<RedisTls>>,
}

impl Tls {
    /// Files of TLS with which a connection that was made with `in_use` is to be replaced.
    pub(super) fn due(&self, at: &str, in_use: Option<&Arc<RedisTls>>) -> Option<Arc<RedisTls>> {
        self.standing.due(at, in_use)
    }

    pub(super) fn accepted(&self, at: &str, tls: &Arc<RedisTls>) {
        self.standing.accepted(Some(at), tls);
    }

    pub(super) fn refused(&self, at: &str, tls: &Arc<RedisTls>, cause: String) {
        self.standing.refused(Some(at), tls, cause);
    }

    fn look(&self) -> Result<Arc<RedisTls>, String> {
        let read = (self.source)();
        // Parsing takes a while, and the files mostly have not changed.
        let read = read.and_then(|read| match self.standing.file() {
            Ok(known) if *known == read => Ok(known),
            _ => client_config(&read).map(|_| Arc::new(read)),
        });
        self.standing.see(read)
    }
}

/// The standing of a file's content. A server is named by its link. It has no name if its answers are not
/// kept, since nobody would ask it again.
struct Standing<T> {
    told: Told,
    /// Never locked across an await.
    state: Mutex<State<T>>,
}

/// The receiver of reports.
struct Told {
    secret: &'static str,
    key: &'static str,
    advice: &'static str,
    clock: Arc<dyn Clock>,
    observer: Option<Arc<dyn StoreObserver>>,
}

struct State<T> {
    /// The file's content, or why it cannot be used.
    file: Result<T, String>,
    /// Contents that some server accepted, the latest first.
    accepted: Vec<T>,
    /// The last answer of each server.
    words: HashMap<String, Word<T>>,
    /// The last report.
    said: Outlook<T>,
}

struct Word<T> {
    in_use: Option<T>,
    refusal: Option<Refusal<T>>,
}

impl<T: PartialEq + Clone> Standing<T> {
    fn new(told: Told) -> Self {
        let (file, accepted, words) = (Err("it was not read yet".to_owned()), Vec::new(), HashMap::new());
        Standing { told, state: Mutex::new(State { file, accepted, words, said: Outlook::Open }) }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock()
    }

    fn file(&self) -> Result<T, String> {
        self.lock().file.clone()
    }

    /// Notes the file's content.
    fn see(&self, file: Result<T, String>) -> Result<T, String> {
        let mut state = self.lock();
        if state.file != file {
            state.file = file;
        }
        state.file.clone()
    }

    /// The contents that a new connection offers, at least one.
    fn offers(&self, at: Option<&str>, is_patient: bool) -> Result<Vec<T>, String> {
        let state = self.lock();
        let refusal = at.and_then(|at| state.words.get(at)).and_then(|word| word.refusal.as_ref());
        let now = self.told.clock.monotonic();
        let is_held_back = is_patient
            && matches!((&state.file, refusal), (Ok(file), Some(refusal)) if refusal.holds_back(file, now));
        or_why_not(&state.file, offers(state.file.as_ref().ok(), &state.accepted, is_held_back))
    }

    /// The same if each offer needs a connection of its own: then only the last success is worth one.
    fn one_after_the_other(&self, at: Option<&str>) -> Result<Vec<T>, String> {
        let state = self.lock();
        let in_use = at.and_then(|at| state.words.get(at)).and_then(|word| word.in_use.as_ref());
        let worked: Vec<T> = in_use.or(state.accepted.first()).cloned().into_iter().collect();
        or_why_not(&state.file, offers(state.file.as_ref().ok(), &worked, false))
    }

    fn due(&self, at: &str, in_use: Option<&T>) -> Option<T> {
        let mut state = self.lock();
        let state = &mut *state;
        let file = state.file.as_ref().ok();
        let refusal = state.words.get(at).and_then(|word| word.refusal.as_ref());
        if is_due(file, in_use, refusal, self.told.clock.monotonic()) {
            return file.cloned();
        }
        // Of all connections to this server, the one for commands decides.
        if in_use.is_some() && in_use == file {
            let file = file.cloned();
            *state.word(at) = Word { in_use: file, refusal: None };
        }
        None
    }

    fn accepted(&self, at: Option<&str>, what: &T) {
        let mut state = self.lock();
        state.accepted.retain(|accepted| accepted != what);
        state.accepted.insert(0, what.clone());
        state.accepted.truncate(REMEMBERED);
        if let Some(at) = at {
            let word = state.word(at);
            word.in_use = Some(what.clone());
            word.refusal = word.refusal.take().filter(|refusal| refusal.what != *what);
        }
    }

    fn refused(&self, at: Option<&str>, what: &T, cause: String) {
        let mut state = self.lock();
        // That an earlier content is refused is as it should be.
        let Some(at) = at.filter(|_| state.file.as_ref() == Ok(what)) else { return };
        let now = self.told.clock.monotonic();
        let word = state.word(at);
        let cause = format!("{at}: {cause}");
        word.refusal = Some(Refusal::after(word.refusal.as_ref(), what.clone(), now, cause));
    }

    fn settle(&self) {
        let (found, before, has_another) = {
            let mut state = self.lock();
            let words = state.words.values().map(|word| (word.in_use.as_ref(), word.refusal.as_ref()));
            let file = state.file.as_ref().map_err(String::as_str);
            let found = outlook(file, words, self.told.clock.monotonic());
            if found.says_the_same_as(&state.said) {
                return;
            }
            let before = std::mem::replace(&mut state.said, found.clone());
            (found, before, !state.accepted.is_empty())
        };
        self.told.tell(&found, &before, has_another);
    }
}

impl<T> State<T> {
    fn word(&mut self, at: &str) -> &mut Word<T> {
        if !self.words.contains_key(at) {
            self.words.insert(at.to_owned(), Word { in_use: None, refusal: None });
        }
        self.words.get_mut(at).expect("is there now")
    }
}

fn or_why_not<T>(file: &Result<T, String>, offers: Vec<T>) -> Result<Vec<T>, String> {
    match file {
        Err(cause) if offers.is_empty() => Err(cause.clone()),
        _ => Ok(offers),
    }
}

impl Told {
    fn tell<T>(&self, found: &Outlook<T>, before: &Outlook<T>, has_another: bool) {
        let Told { key, advice, .. } = self;
        let stays = if has_another { "what was accepted before stays in use" } else { "there is no other" };
        let is_refused = match found {
            Outlook::Open => return,
            Outlook::InUse(_) => {
                if !matches!(before, Outlook::Open) {
                    tracing::info!(key, "what the file holds is in use now");
                }
                false
            }
            Outlook::Refused(Refusal { cause, .. }) => {
                tracing::error!(key, cause, "what the file holds is refused, and {stays}: {advice}");
                true
            }
            Outlook::Unusable(cause) => {
                tracing::error!(key, cause, "what the file holds cannot be used, and {stays}: mend the file");
                true
            }
        };
        if let Some(observer) = &self.observer {
            observer.login(self.secret, is_refused, self.clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::time::Timestamp;
    use crate::store::observed::Risk;
    use crate::store::suite::RealClock;

    #[derive(Default)]
    struct Heard(Mutex<Vec<bool>>);

    impl StoreObserver for Heard {
        fn corrupt(&self, _: &crate::store::StoreError) {}

        fn risk(&self, _: Risk, _: Option<&str>) {}

        fn operation(&self, _operation: &'static str, _elapsed: Duration, _error: bool) {}

        fn login(&self, _secret: &'static str, is_refused: bool, _since: Timestamp) {
            self.0.lock().push(is_refused);
        }
    }

    /// A subscription that fell back to what was accepted before says nothing of the connection for commands.
    #[test]
    fn the_connection_for_commands_decides_what_is_in_use_at_a_server() {
        let heard = Arc::new(Heard::default());
        let observer: Arc<dyn StoreObserver> = heard.clone();
        let clock = RealClock::shared();
        let standing =
            Standing::new(Told { secret: "tls", key: "", advice: "", clock, observer: Some(observer) });
        let expect = |expected: &[bool]| {
            standing.settle();
            assert_eq!(*heard.0.lock(), expected);
        };
        standing.see(Ok('b')).expect("can be used");
        standing.accepted(Some("server"), &'a');
        expect(&[]);
        standing.refused(Some("server"), &'a', "that of before".to_owned());
        expect(&[]);
        standing.refused(Some("server"), &'b', "subscribing".to_owned());
        expect(&[true]);
        assert_eq!(standing.due("server", Some(&'a')), None, "too early");
        expect(&[true]);
        assert_eq!(standing.due("server", Some(&'b')), None, "is in use");
        expect(&[true, false]);
        assert_eq!(standing.due("server", Some(&'a')), Some('b'));
    }
}
