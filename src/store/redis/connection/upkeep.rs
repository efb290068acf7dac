//! Upkeep of the connection in use: it follows changed files and the sentinels, and its server is checked.

use std::sync::Arc;
use std::time::Duration;

use super::{Link, Shared};
use crate::store::redis::config::Location;
use crate::store::redis::failure::Verdict;
use crate::store::redis::live::Live;
use crate::store::redis::prerequisites::{self, Risks};
use crate::store::redis::sentinel::survey;
use crate::store::redis::tls::RedisTls;

impl Link {
    /// Checks what else Redis must be, if the last check is old or was over another connection.
    pub(in crate::store::redis) async fn look_at_risks(&self) {
        let (live, now) = (self.0.lock().live.clone(), self.0.clock.monotonic());
        let Some(live) = live else { return };
        let is_fresh = |(at, number): (Duration, u64)| {
            number == live.number && now.saturating_sub(at) < prerequisites::LOOK
        };
        if self.0.lock().looked.is_some_and(is_fresh) {
            return;
        }
        let has_failover =
            !matches!(self.0.config.location, Location::Server { .. }) || self.0.identity.is_none();
        let mut commands = live.commands();
        let wall = self.0.clock.now().unix_seconds();
        if let Some(risks) = prerequisites::look(&mut commands, self.0.user(), has_failover, wall).await {
            let mut state = self.0.lock();
            (state.risks, state.looked) = (risks, Some((now, live.number)));
        }
    }

    /// Returns the server's name and what that check found.
    pub(in crate::store::redis) fn risks(&self) -> (String, Risks) {
        (self.0.name.clone(), self.0.lock().risks.clone())
    }

    /// Asks the sentinels, if there are any, for the primary. Puts the connection in use aside if it leads
    /// elsewhere, and returns true then. Without an answer nothing changes.
    pub(in crate::store::redis) async fn follow(&self) -> bool {
        let Location::Sentinels(sentinels) = &self.0.config.location else { return false };
        let Some(live) = self.0.lock().live.clone() else { return false };
        let known = live.place.epoch;
        let Ok(survey) = survey(&self.0.access, sentinels, known, self.clock()).await else { return false };
        let Some(named) = survey.primaries.first() else { return false };
        let stays = survey.primaries.iter().any(|named| named.is_same_server(&live.place));
        if stays || (named.epoch <= known && !survey.agreed) {
            return false;
        }
        let mut state = self.0.lock();
        if state.live.as_ref().is_some_and(|current| Arc::ptr_eq(current, &live)) {
            state.live = None;
            tracing::warn!(left = %live.place, named = %named, "the sentinels name another primary");
        }
        true
    }

    /// Applies changed files to the connection in use. If the server refuses them, the connection stays as it
    /// is.
    pub(in crate::store::redis) async fn keep_up(&self) {
        let Some(live) = self.0.lock().live.clone() else { return };
        let Shared { access, name, .. } = &*self.0;
        if let Some(login) = &access.password {
            let in_use = live.password().clone();
            if let Some(password) = login.due(name, in_use.as_ref()) {
                let mut commands = live.commands();
                match login.auth(&password).exec_async(&mut commands).await {
                    Ok(()) => {
                        login.accepted(name, &password);
                        *live.password() = Some(password);
                        self.0.renewed.send_modify(|renewed| *renewed += 1);
                    }
                    Err(error) if Verdict::of(&error) == Verdict::Lost => {
                        self.discard(&live, Verdict::Lost, &login.describe(&error));
                        return;
                    }
                    Err(error) => login.refused(name, &password, &error),
                }
            }
        }
        if let Some(tls) = &access.tls
            && let Some(due) = tls.due(name, live.tls.as_ref())
            && !std::mem::replace(&mut self.0.lock().replacing, true)
        {
            let replace = Arc::clone(&self.0).replace(live, due);
            self.0.tasks.spawn("replacing the connection to Redis", Box::pin(replace));
        }
    }
}

impl Shared {
    /// Makes a connection to the same server with other TLS files, and puts it in the place of `old`. Running
    /// operations end on the old one. If the new one cannot be made, the old one stays.
    async fn replace(self: Arc<Self>, old: Arc<Live>, with: Arc<RedisTls>) {
        let limit = self.config.connect_timeout;
        let made = tokio::select! {
            biased;
            made = self.connect_to(&old.place, Some(Arc::clone(&with))) => made,
            () = self.clock.sleep(limit) => Err(format!("no connection within {limit:?}")),
        };
        let tls = self.access.tls.as_ref();
        let mut state = self.lock();
        state.replacing = false;
        if !state.live.as_ref().is_some_and(|current| Arc::ptr_eq(current, &old)) {
            return; // another one was needed meanwhile
        }
        match made {
            Ok(live) => {
                state.live = Some(Arc::new(live));
                drop(state);
                tls.inspect(|tls| tls.accepted(&self.name, &with));
                self.renewed.send_modify(|renewed| *renewed += 1);
            }
            Err(cause) => {
                drop(state);
                tls.inspect(|tls| tls.refused(&self.name, &with, cause));
            }
        }
    }
}
