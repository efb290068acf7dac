//! Fills a store with connections, sealed as the daemon seals them, through the store's own port.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokenward::domain::account::Account;
use tokenward::domain::connection::Profile;
use tokenward::domain::grant::Grant;
use tokenward::domain::id::{AppName, ConnectionKey, ConnectionName};
use tokenward::domain::secret::{AccessToken, RefreshToken};
use tokenward::domain::time::Clock as _;
use tokenward::domain::token::HeldToken;
use tokenward::keyring::files;
use tokenward::repository::Repository;
use tokenward::store::{Committed, Store, record};
use tokenward::system::{SystemClock, SystemRandom};

use crate::authority::{Authority, SCOPES, object, refresh_token, tenant};
use crate::support::Failure;

/// Commits under way at once.
const AT_ONCE: usize = 256;

pub fn key(number: usize) -> Result<ConnectionKey, Failure> {
    let (app, connection) =
        (AppName::parse("outlook")?, ConnectionName::parse(&format!("user-{number:06}"))?);
    Ok(ConnectionKey { app, connection })
}

/// Makes so many connections with a token that has this life. Returns the size of a record.
pub async fn fill(
    store: Arc<dyn Store>,
    keyring: &Path,
    authority: &Authority,
    count: usize,
    life: Duration,
) -> Result<usize, Failure> {
    let keyring = Arc::new(files::open(keyring)?);
    let repository = &Repository::new(store.clone(), keyring, Arc::new(SystemRandom::new()));
    let now = SystemClock::new().now();
    let words = || SCOPES.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let make = async |number: usize| {
        let account = Account {
            iss: authority.issuer(number),
            sub: format!("subject-{}", number % crate::authority::TENANTS),
            tid: Some(tenant(number)),
            oid: Some(object(number)),
            username: Some("a.user@contoso.example".into()),
        };
        let requested = words().into_iter().chain(["offline_access".to_owned()]).collect();
        let profile = Profile::connected(account, requested, words(), "mail-sync".into(), now, None);
        let token = HeldToken {
            access_token: AccessToken::new("a".repeat(1800)),
            digest: "0".repeat(64),
            uti: Some("BBBBBBBBBBBBBBBBBBBBBB".into()),
            issued_at: now,
            expires_at: now.plus(life),
            refresh_at: None,
            scopes: words(),
            resource: Some("https://graph.microsoft.com".into()),
            answers_claims: None,
            got_for: None,
            cae: false,
        };
        let grant = Grant::new(RefreshToken::new(refresh_token(number, 0)));
        let (committed, _) =
            repository.connect(&key(number)?, (None, 1), ([3; 8], now), profile, &[token], &grant).await?;
        if committed == Committed::Done { Ok(()) } else { Err(Failure::from("not stored")) }
    };
    let mut made = futures_util::stream::iter((0..count).map(make)).buffer_unordered(AT_ONCE);
    while let Some(made) = made.next().await {
        made?;
    }
    let stored = store.load(&key(0)?).await?.ok_or("nothing is stored")?;
    Ok(record::encode("measuring", &stored)?.len())
}
