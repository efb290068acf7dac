//! Seeds a store through its own port with records that the daemon serves: sealed as it seals them, scheduled
//! as it schedules them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokenward::domain::account::Account;
use tokenward::domain::connection::{Attempt, Profile};
use tokenward::domain::digest::sha256_hex;
use tokenward::domain::grant::Grant;
use tokenward::domain::id::{AppName, ConnectionKey, ConnectionName};
use tokenward::domain::random::Random;
use tokenward::domain::remarks::Remarks;
use tokenward::domain::secret::{AccessToken, RefreshToken};
use tokenward::domain::time::{Clock as _, Timestamp};
use tokenward::domain::token::HeldToken;
use tokenward::domain::verdict::{AuthorityError, Disposition, GrantFate, ReauthReason};
use tokenward::keyring::Keyring;
use tokenward::repository::Repository;
use tokenward::store::{Committed, Store};
use tokenward::system::{SystemClock, SystemRandom};

use crate::support::Failure;

/// Lengths of what Entra issues to a work account for Graph, in bytes.
pub const ACCESS_TOKEN: usize = 1500;
pub const REFRESH_TOKEN: usize = 1100;
/// As Entra answers for Graph.
pub const SCOPES: [&str; 4] = ["openid", "profile", "User.Read", "Mail.Read"];
/// Tenants that the connections are spread over.
const TENANTS: u64 = 64;
/// Renewals that each connection has behind it: more than it remembers.
const RENEWALS: u32 = 12;
/// Records under way at once.
const AT_ONCE: usize = 256;

/// What is seeded into, and with what.
pub struct Seeder {
    pub store: Arc<dyn Store>,
    repository: Repository,
    clock: SystemClock,
    /// The authority's origin: a grant goes to the authority that its account is of, and to no other.
    origin: String,
    /// Whether some have another status than active.
    has_trouble: bool,
}

impl Seeder {
    pub fn new(store: Arc<dyn Store>, keyring: Arc<Keyring>, origin: String) -> Self {
        let repository = Repository::new(Arc::clone(&store), keyring, Arc::new(SystemRandom::new()));
        Seeder { store, repository, clock: SystemClock::new(), origin, has_trouble: false }
    }

    /// Of each thousand the user of one must sign in again, and one is paused.
    pub fn with_trouble(mut self) -> Self {
        self.has_trouble = true;
        self
    }

    /// Makes the connections with these numbers.
    pub async fn seed(&self, numbers: std::ops::Range<u64>) -> Result<(), Failure> {
        let mut made = stream::iter(numbers).map(|number| self.one(number)).buffer_unordered(AT_ONCE);
        while let Some(one) = made.next().await {
            one?;
        }
        Ok(())
    }

    /// A connection that was used lately, with a token that lives for a day. That of an odd number is to be
    /// renewed by now, but nothing is scheduled for the next hours.
    async fn one(&self, number: u64) -> Result<(), Failure> {
        let (key, now) = (key(number), self.clock.now());
        let mut profile = profile(&self.origin, number, now);
        match number % 1000 {
            500 if self.has_trouble => profile = refused(profile, now),
            750 if self.has_trouble => profile = profile.paused(),
            _ => {}
        }
        let grant = Grant::new(RefreshToken::new(random_text(REFRESH_TOKEN)));
        let token = token(now, number % 2 == 1);
        let due_at = now.plus(Duration::from_secs(12 * 3600 + number % 36_000));
        let made = self.repository.connect(
            &key,
            (None, 1),
            ([7; 8], now),
            profile,
            std::slice::from_ref(&token),
            &grant,
        );
        if made.await?.0 != Committed::Done {
            return Err(format!("{key} is there already").into());
        }
        self.store.schedule(&key, Some(due_at)).await?;
        Ok(self.store.mark_used(&key, now).await?)
    }

    /// Makes these connections due now.
    pub async fn make_due(&self, numbers: impl Iterator<Item = u64>) -> Result<(), Failure> {
        let now = self.clock.now();
        let due = |number| async move { self.store.schedule(&key(number), Some(now)).await };
        let mut made = stream::iter(numbers).map(due).buffer_unordered(AT_ONCE);
        while let Some(one) = made.next().await {
            one?;
        }
        Ok(())
    }
}

/// The connection with this number.
pub fn key(number: u64) -> ConnectionKey {
    ConnectionKey {
        app: AppName::parse("outlook").expect("a name"),
        connection: ConnectionName::parse(&name(number)).expect("a name"),
    }
}

/// The name of the connection with this number.
pub fn name(number: u64) -> String {
    format!("user-{number:08}")
}

fn profile(origin: &str, number: u64, now: Timestamp) -> Profile {
    let tenant = format!("11111111-2222-3333-4444-{:012x}", number % TENANTS);
    let account = Account {
        iss: format!("{origin}/{tenant}/v2.0"),
        sub: random_text(43),
        tid: Some(tenant),
        oid: Some(format!("99999999-8888-7777-6666-{number:012x}")),
        username: Some(format!("user-{number:08}@contoso.example")),
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut asked = words(&SCOPES);
    asked.push("offline_access".to_owned());
    let caller = "mail-sync".to_owned();
    let profile = Profile::connected(account, asked, words(&SCOPES), caller, now, None);
    (0..RENEWALS).fold(profile, |profile, _| profile.refreshed(None, &Remarks::default(), now))
}

fn refused(profile: Profile, now: Timestamp) -> Profile {
    let disposition = Disposition::Reauthorize(ReauthReason::GrantExpired, GrantFate::Keep);
    let attempt = Attempt {
        at: now,
        action: "refresh".to_owned(),
        outcome: "reauthorize".to_owned(),
        conclusion: "the user must sign in again".to_owned(),
        answer: AuthorityError::default(),
    };
    profile.judged(disposition, attempt, None, now)
}

fn token(now: Timestamp, is_due: bool) -> HeldToken {
    let text = random_text(ACCESS_TOKEN);
    HeldToken {
        digest: sha256_hex(text.as_bytes()),
        access_token: AccessToken::new(text),
        uti: Some(random_text(22)),
        issued_at: now,
        expires_at: now.plus(Duration::from_secs(86_400)),
        refresh_at: Some(if is_due { now } else { now.plus(Duration::from_secs(60_000)) }),
        scopes: SCOPES.iter().map(|word| (*word).to_owned()).collect(),
        resource: Some("https://graph.microsoft.com".to_owned()),
        answers_claims: None,
        got_for: None,
        cae: true,
    }
}

/// Random characters, as tokens have them.
pub fn random_text(length: usize) -> String {
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes);
    let mut text = URL_SAFE_NO_PAD.encode(bytes);
    text.truncate(length);
    text
}
