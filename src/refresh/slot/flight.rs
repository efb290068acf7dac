//! Work under way for one connection, and those who wait for it.

use std::sync::Arc;

use crate::flight;
use crate::refresh::failure::Failure;

/// Work under way that others may wait for. If its task died, nothing is known: the caller reads again.
pub(in crate::refresh) type Flight = flight::Flight<Result<(), Arc<Failure>>>;

/// The kinds of work for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::refresh) enum Work {
    /// Reads the store.
    Read,
    /// Uses the grant.
    Renewal,
}

/// The work under way for one connection: at most one of each kind, so that a request that only reads never
/// waits for the authority.
#[derive(Default)]
pub(in crate::refresh) struct Flights {
    read: Option<Flight>,
    renewal: Option<Flight>,
    /// Whether a request without a permit waits for the renewal.
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

    /// A request without a permit joins the renewal under way. Returns false if there is none.
    pub(super) fn hurry(&mut self) -> bool {
        self.hurried = self.renewal.is_some();
        self.hurried
    }

    /// Whether a request without a permit waits for the renewal.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried
    }
}
