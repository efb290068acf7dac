//! What callers and users ask of a process.

use std::convert::Infallible;

use super::{Cluster, Outcome, Process, Target};
use crate::authority::TokenAnswer;
use crate::domain::account::{Account, PERSONAL_TENANT};
use crate::domain::connection::Profile;
use crate::domain::grant::Grant;
use crate::domain::remarks::Remarks;
use crate::domain::scope::ScopeNaming;
use crate::domain::time::Clock;
use crate::refresh::{Refused, Want, held_token};
use crate::store::Committed;
use crate::testkit::authority::{GRAPH, Mode, OTHER, Stamp};

/// As in `broker/confirm.rs`.
const SIGN_IN_TRIES: usize = 8;

impl Cluster {
    fn scopes(&self) -> (Vec<String>, &'static [Option<&'static str>]) {
        match self.mode {
            Mode::Entra => {
                let words =
                    [format!("{GRAPH}/Mail.Read"), format!("{OTHER}/Files.Read"), "offline_access".into()];
                (words.to_vec(), &[Some(GRAPH), Some(GRAPH), Some(OTHER)])
            }
            Mode::Strict => (vec!["mail".to_owned()], &[None]),
        }
    }

    fn naming(&self) -> ScopeNaming {
        match self.mode {
            Mode::Entra => ScopeNaming::Entra { graph: GRAPH.to_owned() },
            Mode::Strict => ScopeNaming::Plain,
        }
    }

    /// Makes one request of a caller to a process.
    pub(super) async fn request(&self, process: &Process, target: usize, reports: bool) -> Outcome {
        let Target { key, handed_out, .. } = &self.targets[target];
        let (words, resources) = self.scopes();
        // At the end it is asked for the resource that it was connected for: a verdict on another may stand
        // for a minute.
        let resource = if reports { self.dice.one_of(resources) } else { resources[0] };
        let scopes = self.naming().scopes_lossy(words.iter().map(String::as_str)).of_resource(resource);
        let min_ttl = self.dice.millis(1000, 40_000);
        let known = handed_out.lock().clone();
        let rejected = known.filter(|_| reports && self.dice.of_thousand(30));
        let want = Want {
            by: None,
            resource: resource.map(str::to_owned),
            scopes,
            min_ttl,
            rejected: rejected.clone(),
            claims: None,
            cae: true,
        };
        self.ledger.count(|counts| counts.requests += 1);
        let asked_at = self.world.now();
        if rejected.is_some() {
            self.ledger.reported(process.pid, key);
        }
        let served = process.engine.serve::<Infallible>(key, |_| Ok(want.clone())).await;
        let (outcome, word) = match served {
            Ok(served) => {
                let stamp = Stamp::of_access(served.token().access_token.expose());
                if rejected.as_deref() == Some(&served.token().digest) {
                    self.ledger.violated("plan", format!("{key}: the token that was reported came back"));
                }
                let (who, times) =
                    ((process.pid, process.replica), (served.token().expires_at, process.clock.now()));
                self.ledger.handed_out(who, key, resource, stamp, times, asked_at);
                *handed_out.lock() = Some(served.token().digest.clone());
                return Outcome::Token(stamp);
            }
            Err(Refused::NotFound) => (Outcome::NotFound, "not found"),
            Err(Refused::NeedsReauthorization(..) | Refused::Blocked(..)) => {
                self.ledger.refused_by_verdict(process.replica, key);
                (Outcome::Judged, "judged")
            }
            Err(Refused::Policy(never)) => match never {},
            Err(Refused::Store | Refused::Damaged) => (Outcome::Trouble("store".into()), "store"),
            Err(Refused::Authority { disposition, .. }) => {
                (Outcome::Trouble(format!("{disposition:?}")), disposition.as_str())
            }
            Err(Refused::NotNow(why)) => (Outcome::Trouble(why.to_string()), why.as_str()),
            Err(Refused::Paused) => (Outcome::Trouble("paused".into()), "paused"),
            Err(Refused::SameTokenAgain) => {
                self.ledger.violated("plan", format!("{key}: this authority never gives a token twice"));
                (Outcome::Trouble("the same token".into()), "the same token")
            }
            Err(refused @ (Refused::ScopeNotGranted(_) | Refused::TooManyForced(_))) => {
                (Outcome::Trouble(format!("{refused:?}")), "other")
            }
        };
        self.world.note(format_args!("{} refuses {}: {word}", process.replica, key.connection));
        self.ledger.count(|counts| *counts.refused.entry(word).or_default() += 1);
        outcome
    }

    /// Signs a user in for a connection, and stores that as `broker/confirm.rs` does.
    pub(super) async fn sign_in(&self, process: &Process, target: usize, user: u32) {
        let key = &self.targets[target].key;
        let begun = self.world.now();
        let session_started_at = self.session_begins_at(process);
        let Ok(floor_then) = process.repository.floor(key).await else { return };
        let (family, refresh_token, access_token, life) = self.issuer.sign_in(user);
        self.ledger.signing_in(key, family, user, begun);
        self.world.note(format_args!("{} signs in at {}: grant {}", user, process.replica, family.0));
        let personal = user < 100 && user.is_multiple_of(3);
        let tenant = if personal { PERSONAL_TENANT.to_owned() } else { format!("tenant-{}", user % 2) };
        let entra = self.mode == Mode::Entra || personal;
        let account = Account {
            iss: "https://issuer.example".into(),
            sub: format!("sub-{user}"),
            tid: entra.then_some(tenant),
            oid: entra.then(|| format!("oid-{user}")),
            username: None,
        };
        let (words, _) = self.scopes();
        let resource = match self.mode {
            Mode::Entra => Some(GRAPH.to_owned()),
            Mode::Strict => None,
        };
        let answer = TokenAnswer {
            access_token,
            requested_at: process.clock.now(),
            expires_in: life,
            refresh_in: None,
            refresh_token: None,
            refresh_token_ends_at: None,
            scopes: words.clone(),
            account: None,
            remarks: Remarks::default(),
            cae: false,
        };
        let token = held_token(answer, resource);
        let grant = Grant::new(refresh_token);
        for _ in 0..SIGN_IN_TRIES {
            let Ok(before) = process.repository.load(key).await else { return };
            let before = before.map(|loaded| loaded.connection);
            match process.repository.floor(key).await {
                Ok(floor) if floor.cut <= floor_then.cut => {}
                _ => return, // deleted since, or unknown
            }
            let same = before.as_ref().filter(|before| before.profile.account().id() == account.id());
            let profile = Profile::connected(
                account.clone(),
                words.clone(),
                words.clone(),
                self.caller_of(target).into(),
                process.clock.now(),
                same.map(|before| &before.profile),
            )
            .of_session(session_started_at);
            if self.additions.revocations {
                let (began_at, began_before) =
                    (profile.began_at(), before.as_ref().map(|before| before.profile.began_at()));
                if process.broker.follow_revocations_for(key, began_at, began_before).await.is_err() {
                    return;
                }
                if process.engine.is_revoked(key, &profile) {
                    self.world.note(format_args!("grant {} is revoked before it is stored", family.0));
                    return;
                }
            }
            self.expect(process, target, &profile, &token).await;
            let expected = before.as_ref().map(|before| before.revision);
            let tokens = std::slice::from_ref(&token);
            let base = (expected, floor_then.number);
            let repository = &process.repository;
            let nonce = family.0.to_be_bytes();
            let committed =
                repository.connect(key, base, (nonce, process.clock.now()), profile, tokens, &grant).await;
            if let Ok((Committed::Done, revision)) = committed {
                process.engine.connected(key, revision.sign_in);
                self.ledger.signed_in(family, begun, process.pid);
                self.world.note(format_args!("grant {} is stored", family.0));
                return;
            }
            process.engine.distrust(key);
            if committed.is_err() {
                return;
            }
        }
    }

    /// Deletes a connection on an operator's word, as `broker/disconnect.rs` does.
    pub(super) async fn delete(&self, process: &Process, target: usize) {
        let key = &self.targets[target].key;
        let begun = self.world.now();
        self.world.note(format_args!("{} is deleted at {}", key.connection, process.replica));
        let number = self.ledger.deleting(key);
        let deleted = process.repository.delete(key, None, process.clock.now()).await;
        self.ledger.delete_ended(key, number);
        match deleted {
            Ok(meant) => {
                process.engine.deleted(key, meant);
                self.ledger.deleted(key, begun, process.pid);
                self.world.note(format_args!("{} was deleted", key.connection));
            }
            Err(_) => process.engine.distrust(key),
        }
    }
}
