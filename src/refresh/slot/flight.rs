//! Work under way for one connection, and those who wait for it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::refresh::failure::Failure;

/// How a flight ended, as its waiters see it; none while it is under way.
type Landing = Option<Result<(), Arc<Failure>>>;

/// Work under way that others may wait for.
#[derive(Clone)]
pub(in crate::refresh) struct Flight {
    landing: watch::Receiver<Landing>,
}

impl Flight {
    /// A flight, and the means to land it.
    pub(in crate::refresh) fn start() -> (Flight, watch::Sender<Landing>) {
        let (sender, landing) = watch::channel(None);
        (Flight { landing }, sender)
    }

    /// Waits for the flight. A flight whose task died teaches nothing: the caller reads again.
    pub(in crate::refresh) async fn landed(mut self) -> Result<(), Arc<Failure>> {
        match self.landing.wait_for(Option::is_some).await {
            Ok(landing) => landing.clone().unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }
}

/// The kinds of work for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::refresh) enum Work {
    /// Reads the store.
    Read,
    /// Uses the grant.
    Renewal,
}

/// The work under way for one connection: at most one of each kind, so that who only reads never waits for
/// the authority.
#[derive(Default)]
pub(in crate::refresh) struct Flights {
    read: Option<Flight>,
    renewal: Option<Flight>,
    /// Somebody who needs no permit waits for the renewal.
    hurried: bool,
}

impl Flights {
    /// The work of this kind under way.
    pub(in crate::refresh) fn under_way(&self, work: Work) -> Option<&Flight> {
        match work {
            Work::Read => self.read.as_ref(),
            Work::Renewal => self.renewal.as_ref(),
        }
    }

    /// Work of this kind starts.
    pub(in crate::refresh) fn started(&mut self, work: Work, flight: Flight) {
        match work {
            Work::Read => self.read = Some(flight),
            Work::Renewal => self.renewal = Some(flight),
        }
    }

    /// The work of this kind ended.
    pub(in crate::refresh) fn landed(&mut self, work: Work) {
        match work {
            Work::Read => self.read = None,
            Work::Renewal => (self.renewal, self.hurried) = (None, false),
        }
    }

    /// Whether no work is under way.
    pub(in crate::refresh) fn are_idle(&self) -> bool {
        self.read.is_none() && self.renewal.is_none()
    }

    /// Somebody who needs no permit joins the renewal under way. False if none is.
    pub(super) fn hurry(&mut self) -> bool {
        self.hurried = self.renewal.is_some();
        self.hurried
    }

    /// Whether somebody who needs no permit waits for the renewal.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flight_whose_task_died_wakes_its_waiters() {
        let (flight, landing) = Flight::start();
        let waiter = flight.landed();
        drop(landing);
        assert!(waiter.await.is_ok());
    }
}
