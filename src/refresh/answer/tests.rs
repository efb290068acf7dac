//! Where an answer goes that the store does not take at once.

use super::*;
use crate::domain::account::Account;
use crate::domain::connection::{Profile, SignIn};
use crate::domain::verdict::{AuthorityError, Disposition, GrantFate, ReauthReason};
use crate::store::{LeaseNonce, Revision, StoredConnection};

/// A connection whose grant has worked so often.
fn connection(renewals: u64) -> Connection {
    let account = Account { iss: "i".into(), sub: "s".into(), tid: None, oid: None, username: None };
    let at = Timestamp::from_unix_seconds(1);
    let sign_in = SignIn { number: 1, nonce: [0; 8] };
    let profile = Profile::connected(account, vec![], vec![], "cli".into(), at, None).of_sign_in(sign_in);
    let profile = (0..renewals).fold(profile, |profile, _| profile.grant_replaced(vec![]));
    let revision = Revision { sign_in, generation: renewals, nonce: [0; 16] };
    Connection { revision, profile, tokens: vec![] }
}

fn judged_dead(mut connection: Connection) -> Connection {
    let at = Timestamp::from_unix_seconds(2);
    let attempt = Attempt {
        at,
        action: "refresh".into(),
        outcome: "grant_revoked".into(),
        conclusion: String::new(),
        answer: AuthorityError::default(),
    };
    let dead = Disposition::Reauthorize(ReauthReason::GrantRevoked, GrantFate::Dead);
    connection.profile = connection.profile.judged(dead, attempt, None, at);
    connection
}

/// An answer to the use of `old`, with a new refresh token.
fn rotated(connection: Connection) -> Unstored {
    let nothing = Vec::new;
    let sealed = StoredConnection {
        revision: connection.revision,
        profile: nothing(),
        tokens: nothing(),
        grant: nothing(),
        notice: None,
    };
    Unstored {
        lease: LeaseNonce([0; 16]),
        expected: connection.revision,
        sealed,
        connection,
        grant: Grant::new(RefreshToken::new("new")),
        used: RefreshToken::new("old"),
    }
}

#[test]
fn a_verdict_on_the_refresh_token_that_was_used_stands_below_the_answer() {
    let old = Grant::new(RefreshToken::new("old"));
    let ours = rotated(connection(1));
    assert_eq!(place(&connection(0), Some(&old), &ours), Place::OnTop);
    assert_eq!(place(&judged_dead(connection(0)), None, &ours), Place::OnTop);
    assert_eq!(place(&judged_dead(connection(1)), None, &ours), Place::Nowhere, "on the answer's own grant");
}

/// Another replica's answer came without a new refresh token, so that the stored grant is still the one that
/// was used. It was seen; then the grant was judged.
#[test]
fn a_verdict_stands_below_the_answer_though_the_grant_had_worked_for_another_replica() {
    let old = Grant::new(RefreshToken::new("old"));
    let theirs = connection(1);
    let ours = rotated(connection(1));
    assert_eq!(place(&theirs, Some(&old), &ours), Place::OnTop);
    let again = rotated(on_top(ours.connection, theirs.clone()));
    assert_eq!(place(&judged_dead(theirs), None, &again), Place::OnTop);
}
