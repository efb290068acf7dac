//! Links and sessions of the console, in this process's memory. Of a link and of a cookie only the SHA-256 is
//! kept; both are 256 random bits. Pure: times and secrets are arguments.
//!
//! A replica knows only its own. So a restart ends every session, and a link opens only at the daemon that
//! made it.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::auth_method::AuthMethod;
use crate::domain::digest::sha256_hex;
use crate::domain::time::Timestamp;
use crate::listener::Origin;

/// How long a link can be used.
pub(in crate::api::admin) const LINK_LIVES: Duration = Duration::from_secs(60);
/// A session ends when its operator has asked for nothing for so long.
pub(super) const IDLE: Duration = Duration::from_secs(30 * 60);
/// A session ends after so long, whatever its operator does.
pub(super) const LONGEST: Duration = Duration::from_secs(8 * 3600);
/// Most links, and most sessions, at one time. Operators are few; who asks for more drops the oldest.
const MOST: usize = 256;

/// An operator, as a session is bound to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api::admin) struct Operator {
    /// The name in `[admins]`, or the uid.
    pub(in crate::api::admin) name: String,
    /// How the operator proved that.
    pub(in crate::api::admin) proof: AuthMethod,
    /// The id of the API key that was the proof, if one was.
    pub(in crate::api::admin) key: Option<String>,
}

/// A session as a request meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) operator: Operator,
    /// The token that each of its forms carries.
    pub(super) csrf: String,
    /// When it ends at the latest.
    pub(super) ends_at: Timestamp,
    /// Its name among its operator's; opens nothing.
    pub(super) id: String,
}

/// A session as its operator sees it among the own ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: String,
    pub(super) operator: Operator,
    /// Where it was opened from.
    pub(super) from: Origin,
    pub(super) opened_at: Timestamp,
    /// When its operator last asked for something.
    pub(super) seen_at: Timestamp,
}

/// All links and sessions.
#[derive(Default)]
pub(in crate::api::admin) struct Sessions(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    links: HashMap<String, Link>,
    sessions: HashMap<String, Session>,
}

struct Link {
    operator: Operator,
    made_at: Timestamp,
}

struct Session {
    operator: Operator,
    csrf: String,
    from: Origin,
    opened_at: Timestamp,
    seen_at: Timestamp,
}

/// Whether less than `life` has passed since `from`. A clock that was set back counts as too late.
fn lives(from: Timestamp, life: Duration, now: Timestamp) -> bool {
    now >= from && now.since(from) < life
}

impl Session {
    fn lives(&self, now: Timestamp) -> bool {
        lives(self.opened_at, LONGEST, now) && lives(self.seen_at, IDLE, now)
    }

    fn met(&self, hash: &str) -> Met {
        let ends_at = self.opened_at.plus(LONGEST);
        Met { operator: self.operator.clone(), csrf: self.csrf.clone(), ends_at, id: id_of(hash) }
    }
}

/// A part of the hash is the session's name: nobody finds the cookie by it.
fn id_of(hash: &str) -> String {
    hash[..16].to_owned()
}

impl Memory {
    fn tidy(&mut self, now: Timestamp) {
        self.links.retain(|_, link| lives(link.made_at, LINK_LIVES, now));
        self.sessions.retain(|_, session| session.lives(now));
    }
}

/// Makes room for one more.
fn drop_oldest<V>(of: &mut HashMap<String, V>, at: impl Fn(&V) -> Timestamp) {
    if of.len() >= MOST
        && let Some(oldest) = of.iter().min_by_key(|(_, one)| at(one)).map(|(hash, _)| hash.clone())
    {
        of.remove(&oldest);
    }
}

impl Sessions {
    /// Keeps a link for an operator. Returns when it ends.
    pub(in crate::api::admin) fn add_link(
        &self,
        secret: &str,
        operator: Operator,
        now: Timestamp,
    ) -> Timestamp {
        let mut memory = self.0.lock();
        memory.tidy(now);
        drop_oldest(&mut memory.links, |link| link.made_at);
        memory.links.insert(sha256_hex(secret.as_bytes()), Link { operator, made_at: now });
        now.plus(LINK_LIVES)
    }

    /// Returns whose link it is, and leaves it as it is.
    pub(super) fn look_at_link(&self, secret: &str, now: Timestamp) -> Option<Operator> {
        let memory = self.0.lock();
        let link = memory.links.get(&sha256_hex(secret.as_bytes()))?;
        lives(link.made_at, LINK_LIVES, now).then(|| link.operator.clone())
    }

    /// Uses a link up. Returns whose it was, if it was not too late.
    pub(super) fn take_link(&self, secret: &str, now: Timestamp) -> Option<Operator> {
        let link = self.0.lock().links.remove(&sha256_hex(secret.as_bytes()))?;
        lives(link.made_at, LINK_LIVES, now).then_some(link.operator)
    }

    /// Opens a session for an operator, with this cookie and this token for its forms.
    pub(super) fn open(
        &self,
        cookie: &str,
        csrf: String,
        operator: Operator,
        from: Origin,
        now: Timestamp,
    ) -> Met {
        let mut memory = self.0.lock();
        memory.tidy(now);
        drop_oldest(&mut memory.sessions, |session| session.seen_at);
        let session = Session { operator, csrf, from, opened_at: now, seen_at: now };
        let hash = sha256_hex(cookie.as_bytes());
        let met = session.met(&hash);
        memory.sessions.insert(hash, session);
        met
    }

    /// Finds the session of a cookie. `is_asked` says that a person asks, and not a stream by itself: only
    /// that keeps a session from being idle.
    pub(super) fn find(&self, cookie: &str, now: Timestamp, is_asked: bool) -> Option<Met> {
        let mut memory = self.0.lock();
        let hash = sha256_hex(cookie.as_bytes());
        let session = memory.sessions.get_mut(&hash)?;
        if !session.lives(now) {
            memory.sessions.remove(&hash);
            return None;
        }
        if is_asked {
            session.seen_at = now;
        }
        Some(session.met(&hash))
    }

    /// Returns an operator's sessions, the last used first.
    pub(super) fn of(&self, name: &str, now: Timestamp) -> Vec<Seen> {
        let mut memory = self.0.lock();
        memory.tidy(now);
        let seen = |(hash, session): (&String, &Session)| Seen {
            id: id_of(hash),
            operator: session.operator.clone(),
            from: session.from,
            opened_at: session.opened_at,
            seen_at: session.seen_at,
        };
        let mine = memory.sessions.iter().filter(|(_, session)| session.operator.name == name);
        let mut all: Vec<Seen> = mine.map(seen).collect();
        all.sort_by(|a, b| (b.seen_at, &b.id).cmp(&(a.seen_at, &a.id)));
        all
    }

    /// Ends those of an operator's sessions that are meant.
    pub(super) fn end_of(&self, name: &str, is_meant: impl Fn(&str) -> bool) {
        let mut memory = self.0.lock();
        memory.sessions.retain(|hash, session| session.operator.name != name || !is_meant(&id_of(hash)));
    }

    /// Ends the session of a cookie.
    pub(super) fn end(&self, cookie: &str) {
        self.0.lock().sessions.remove(&sha256_hex(cookie.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000)
    }

    fn operator(name: &str) -> Operator {
        Operator { name: name.to_owned(), proof: AuthMethod::UnixUser, key: None }
    }

    fn from() -> Origin {
        Origin::Tcp("10.0.0.7:5000".parse().expect("an address"))
    }

    #[test]
    fn a_link_is_looked_at_often_and_used_once_within_a_minute() {
        let sessions = Sessions::default();
        let ends_at = sessions.add_link("a", operator("ada"), start());
        assert_eq!(ends_at, start().plus(LINK_LIVES));
        let late = start().plus(LINK_LIVES - SECOND);
        for _ in 0..3 {
            assert_eq!(sessions.look_at_link("a", late), Some(operator("ada")));
        }
        assert_eq!(sessions.take_link("b", late), None);
        assert_eq!(sessions.take_link("a", late), Some(operator("ada")));
        assert_eq!((sessions.take_link("a", late), sessions.look_at_link("a", late)), (None, None));

        // Too late, and before it was made.
        for at in [start().plus(LINK_LIVES), start().minus(SECOND)] {
            sessions.add_link("c", operator("ada"), start());
            assert_eq!(sessions.look_at_link("c", at), None);
            assert_eq!(sessions.take_link("c", at), None);
            assert_eq!(sessions.take_link("c", start()), None, "it was used up");
        }
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
        let sessions = Sessions::default();
        let met = sessions.open("cookie", "token".to_owned(), operator("ada"), from(), start());
        assert_eq!((met.operator.name.as_str(), met.csrf.as_str()), ("ada", "token"));
        assert_eq!(sessions.find("another", start(), true), None);

        // As long as somebody asks in time, to its longest life and no longer.
        let mut now = start();
        while now.plus(IDLE - SECOND).since(start()) < LONGEST {
            now = now.plus(IDLE - SECOND);
            assert_eq!(sessions.find("cookie", now, true).as_ref(), Some(&met));
        }
        assert_eq!(sessions.find("cookie", start().plus(LONGEST), true), None);

        // A stream by itself does not keep it.
        sessions.open("cookie", "token".to_owned(), operator("ada"), from(), start());
        assert!(sessions.find("cookie", start().plus(IDLE - SECOND), false).is_some());
        assert_eq!(sessions.find("cookie", start().plus(IDLE), true), None);
        assert_eq!(sessions.find("cookie", start(), true), None, "it has ended");
    }

    #[test]
    fn a_session_ends_with_its_operators_word() {
        let sessions = Sessions::default();
        sessions.open("one", "token".to_owned(), operator("ada"), from(), start());
        sessions.open("other", "token".to_owned(), operator("bob"), from(), start());
        sessions.end("one");
        assert_eq!(sessions.find("one", start(), true), None);
        assert_eq!(sessions.find("other", start(), true).expect("a session").operator, operator("bob"));
    }

    #[test]
    fn an_operator_sees_the_own_sessions_and_ends_the_others() {
        let sessions = Sessions::default();
        let later = |seconds| start().plus(SECOND * seconds);
        let one = sessions.open("one", String::new(), operator("ada"), from(), start());
        let two = sessions.open("two", String::new(), operator("ada"), from(), later(1));
        sessions.open("three", String::new(), operator("ada"), from(), later(2));
        sessions.open("bobs", String::new(), operator("bob"), from(), later(2));
        assert!(sessions.find("one", later(9), true).is_some());
        let all = sessions.of("ada", later(10));
        let times: Vec<_> = all.iter().map(|seen| (seen.opened_at, seen.seen_at)).collect();
        assert_eq!(times, [(start(), later(9)), (later(2), later(2)), (later(1), later(1))]);
        assert!(all.iter().all(|seen| seen.from == from()) && all[0].id == one.id);

        // One by its name, and not another operator's; then all but this one.
        let bobs = sessions.of("bob", later(10)).remove(0).id;
        sessions.end_of("ada", |id| id == two.id || id == bobs);
        assert!(sessions.find("two", later(10), false).is_none());
        assert!(sessions.find("three", later(10), false).is_some());
        sessions.end_of("ada", |id| id != one.id);
        assert_eq!(sessions.of("ada", later(10)).len(), 1);
        assert!(sessions.find("one", later(10), false).is_some());
        assert!(sessions.find("bobs", later(10), false).is_some());
        assert!(sessions.of("ada", start().plus(LONGEST)).is_empty());
    }

    #[test]
    fn more_than_so_many_are_not_kept_and_the_oldest_go() {
        let sessions = Sessions::default();
        for at in 0..=MOST {
            let now = start().plus(Duration::from_millis(u64::try_from(at).expect("small")));
            sessions.add_link(&format!("l{at}"), operator("ada"), now);
            sessions.open(&format!("s{at}"), String::new(), operator("ada"), from(), now);
        }
        let now = start().plus(SECOND);
        let memory = sessions.0.lock();
        assert_eq!((memory.links.len(), memory.sessions.len()), (MOST, MOST));
        drop(memory);
        assert_eq!(sessions.find("s0", now, false), None);
        assert_eq!(sessions.look_at_link("l0", now), None);
        assert!(sessions.find("s1", now, false).is_some() && sessions.look_at_link("l1", now).is_some());
    }

    #[test]
    fn neither_link_nor_cookie_is_kept() {
        let sessions = Sessions::default();
        sessions.add_link("the-link", operator("ada"), start());
        sessions.open("the-cookie", "token".to_owned(), operator("ada"), from(), start());
        let memory = sessions.0.lock();
        let kept = memory.links.keys().chain(memory.sessions.keys());
        assert!(kept.into_iter().all(|hash| hash.len() == 64 && !hash.contains("the-")));
    }
}
