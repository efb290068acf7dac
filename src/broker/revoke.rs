//! The kill switch: one act ends every connection of an app, a tenant or a caller, on all replicas within
//! seconds and across restarts. The revocation is stored first; from then on, every replica that sees it
//! neither hands out nor refreshes what it covers. The records are destroyed afterwards.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Broker, KEPT_FOR_GOOD, Refusal};
use crate::domain::connection::Profile;
use crate::domain::id::{CallerName, ConnectionKey};
use crate::domain::revocation::{self, Revocation};
use crate::domain::time::Timestamp;
use crate::repository::{FiledUnder, Kind, RepositoryError, Taken};
use crate::store::Deleted;

/// How long a revoking operator waits for the count.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// The number of connections that a revocation covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meant {
    /// Connections found.
    pub connections: u64,
    /// True if all connections were read. Otherwise there may be more.
    pub complete: bool,
}

impl Broker {
    /// Returns how many connections a revocation would cover now, and changes nothing.
    pub async fn would_revoke(
        self: &Arc<Self>,
        revocation: &Revocation,
        even_if_unknown: bool,
    ) -> Result<Meant, Refusal> {
        self.check_names(revocation, even_if_unknown).await?;
        let at = revocation::ends_at(&self.deps.engine.revocations(), revocation.at);
        Ok(self.counted(Revocation { at, ..revocation.clone() }, false).await)
    }

    /// Revokes what began before the revocation is stored, or before `revocation.at` if that is later. It is
    /// in force in this process before anything is counted; all other replicas follow within seconds. Returns
    /// the number of connections it covers. A revocation for an unknown name is refused, unless the operator
    /// insists.
    pub async fn revoke(
        self: &Arc<Self>,
        revocation: Revocation,
        even_if_unknown: bool,
    ) -> Result<Meant, Refusal> {
        self.check_names(&revocation, even_if_unknown).await?;
        let repository = &self.deps.repository;
        let now = self.deps.clock.now();
        // The check of the names may take seconds, in which sessions were started too.
        let asked_at = revocation.at.max(now);
        let mut revocation = revocation;
        let written = repository
            .change_pending(
                Kind::Revocations,
                &FiledUnder::only(),
                now,
                KEPT_FOR_GOOD,
                |list: &mut Vec<Revocation>| {
                    revocation.at = revocation::ends_at(list, asked_at);
                    list.push(revocation.clone());
                    revocation::keep_newest(list);
                    Ok::<(), RepositoryError>(())
                },
            )
            .await?;
        let Some(list) = written else {
            return Err(Refusal::StoreUnavailable);
        };
        if list.len() >= revocation::MOST {
            tracing::warn!(
                kept = revocation::MOST,
                "too many targets of revocations: the oldest are forgotten, and a backup from before them \
                 would bring their connections back"
            );
        }
        self.deps.engine.learn_revocations(list);
        Ok(self.counted(revocation, true).await)
    }

    /// Refuses unknown names: an emergency command without effect must not seem to work.
    async fn check_names(&self, revocation: &Revocation, even_if_unknown: bool) -> Result<(), Refusal> {
        if !revocation.names_something() {
            return Err(Refusal::invalid(
                "app",
                "name an app, a tenant or a caller; nothing named is not everything",
            ));
        }
        if even_if_unknown {
            return Ok(());
        }
        if let Some(app) = &revocation.app
            && !self.apps().contains_key(app)
        {
            return Err(unknown("app", "no app of this name is configured"));
        }
        // (A name revoked before is known, so the act can be repeated.)
        if let Some(caller) = &revocation.caller {
            let name = CallerName::parse(caller).ok();
            let is_configured = name.is_some_and(|name| self.deps.policies.policy_of(&name).is_some());
            if !is_configured
                && !self.deps.engine.revokes(|known| known.caller.as_ref() == Some(caller))
                && !self.is_anywhere(|profile| profile.connected_by() == caller).await
            {
                return Err(unknown(
                    "caller",
                    "no caller of this name is configured, and none has connected anything",
                ));
            }
        }
        if let Some(tenant) = &revocation.tenant {
            let is_it = |other: &Option<String>| {
                other.as_deref().is_some_and(|other| other.eq_ignore_ascii_case(tenant))
            };
            if !self.deps.engine.revokes(|known| is_it(&known.tenant))
                && !self.is_anywhere(|profile| is_it(&profile.account().tid)).await
            {
                return Err(unknown("tenant", "no connection has an account of this tenant"));
            }
        }
        Ok(())
    }

    /// Returns true if such a connection exists, or if that could not be determined in time: the revocation
    /// is then not refused.
    async fn is_anywhere(&self, is_it: impl Fn(&Profile) -> bool) -> bool {
        let look = async {
            let mut walk = self.walk();
            let mut counts = super::inspect::Counts::default();
            loop {
                match walk.next(self, &mut counts).await {
                    Ok(Some(page)) if page.connections().iter().any(|(_, profile)| is_it(profile)) => {
                        return true;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return false,
                    Err(_) => return true,
                }
            }
        };
        tokio::select! {
            found = look => found,
            () = self.deps.clock.sleep(COUNTED_WITHIN) => true,
        }
    }

    /// Returns the start to record for a session begun now: later than all present revocations, whichever
    /// replica received them. So new sessions are not covered, although a revocation reaches beyond its
    /// instant.
    pub(super) async fn session_begins_at(&self) -> Result<Timestamp, Refusal> {
        self.follow_revocations().await?;
        Ok(revocation::begins_at(&self.deps.engine.revocations(), self.deps.clock.now()))
    }

    /// Takes in revocations from other replicas. Called every second, and when a request must know now; after
    /// an error, the known ones stay in force.
    pub async fn follow_revocations(&self) -> Result<(), RepositoryError> {
        let list: Option<Taken<Vec<Revocation>>> =
            self.deps.repository.pending(Kind::Revocations, &FiledUnder::only()).await?;
        let read = list.as_ref().map(|list| list.value.clone()).unwrap_or_default();
        // Known revocations stay in force: a failover may have lost one.
        let mut all = read.clone();
        let known = self.deps.engine.revocations();
        all.extend(known.into_iter().filter(|known| !read.contains(known)));
        revocation::keep_newest(&mut all);
        if all.iter().any(|revocation| !read.contains(revocation)) {
            let now = self.deps.clock.now();
            let repository = &self.deps.repository;
            // (If others change it at this moment, the next call succeeds.)
            repository
                .swap_pending(Kind::Revocations, &FiledUnder::only(), list.as_ref(), &all, now, KEPT_FOR_GOOD)
                .await?;
        }
        self.deps.engine.learn_revocations(all);
        Ok(())
    }

    /// Takes in revocations from other replicas before a sign-in is stored. `began_at` is the start of its
    /// session, and `began_before` that of the connection which it replaces.
    ///
    /// If they cannot be read, the sign-in is stored all the same, so that no grant is lost for that: a
    /// revocation that covers it takes effect once it is known. A connection that began later is an
    /// exception. That revocation may not cover it, and it would be gone together with the sign-in that
    /// replaced it.
    ///
    /// # Errors
    /// They cannot be read, and the replaced connection began later.
    pub(crate) async fn follow_revocations_for(
        &self,
        key: &ConnectionKey,
        began_at: Timestamp,
        began_before: Option<Timestamp>,
    ) -> Result<(), RepositoryError> {
        let Err(error) = self.follow_revocations().await else { return Ok(()) };
        if began_before.is_some_and(|before| before > began_at) {
            return Err(error);
        }
        tracing::warn!(
            app = %key.app, connection = %key.connection, %error,
            "a sign-in is stored, but recent revocations could not be read; one that covers it takes effect \
             once it is known"
        );
        Ok(())
    }

    /// Destroys a connection if it was revoked; returns false if not. Called by a walk over all connections.
    pub async fn destroy_if_revoked(&self, key: &ConnectionKey, profile: &Profile) -> bool {
        if !self.deps.engine.is_revoked(key, profile) {
            return false;
        }
        // A pause outlives it.
        if let Err(refusal) = self.keep_name_paused(key, profile.status()).await {
            tracing::warn!(
                ?refusal,
                "a revoked connection is paused, which could not be stored: it is destroyed later"
            );
            return true;
        }
        // Its user may have signed in again since the walk read it: the new sign-in is not covered.
        let (tenant, now) = (profile.account().tid.as_deref(), self.deps.clock.now());
        match self.deps.repository.delete_sign_in(key, profile.sign_in(), tenant, now).await {
            Ok(Deleted::Gone) => {
                tracing::warn!(
                    app = %key.app, connection = %key.connection,
                    "a revoked connection was destroyed"
                );
                self.deps.engine.deleted(key, Some(profile.sign_in()));
                self.status_changed(key, Some(profile.status()), None);
            }
            Ok(Deleted::Absent | Deleted::Another) => {}
            // It is not served anyway, and the next walk tries again.
            Err(error) => tracing::warn!(%error, "a revoked connection could not be destroyed yet"),
        }
        true
    }

    /// Walks over all connections, counts those that a revocation covers, and destroys revoked ones if it is
    /// in force. It continues if that takes longer than the operator waits.
    async fn counted(self: &Arc<Self>, revocation: Revocation, destroys: bool) -> Meant {
        let broker = Arc::clone(self);
        let (sender, mut counted) = watch::channel(Meant::default());
        let walk = async move {
            let mut walk = broker.walk();
            let mut counts = super::inspect::Counts::default();
            loop {
                match walk.next(&broker, &mut counts).await {
                    Ok(Some(page)) => {
                        for (key, profile) in page.connections() {
                            if revocation.covers(&key.app, profile) {
                                sender.send_modify(|meant| meant.connections += 1);
                            }
                            if destroys {
                                broker.destroy_if_revoked(key, profile).await;
                            }
                        }
                    }
                    Ok(None) => return sender.send_modify(|meant| meant.complete = true),
                    // It is in force anyway; the next walk continues.
                    Err(_) => return,
                }
                if !destroys && sender.is_closed() {
                    return;
                }
            }
        };
        self.deps.tasks.spawn("count and destroy what is revoked", Box::pin(walk));
        tokio::select! {
            _ = counted.wait_for(|meant| meant.complete) => {}
            () = self.deps.clock.sleep(COUNTED_WITHIN) => {}
        }
        *counted.borrow()
    }
}

fn unknown(parameter: &'static str, problem: &str) -> Refusal {
    Refusal::invalid(
        parameter,
        format!(
            "{problem}, so nothing was revoked; even_if_unknown (--even-if-unknown) writes it down all the \
             same"
        ),
    )
}
