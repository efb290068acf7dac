//! Streams of a connection's tokens: how many a caller has, and when to look again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Broker, Refusal};
use crate::domain::id::CallerName;
use crate::notices::Feed;
use crate::policy::Provisional;
use crate::refresh::Watched;

/// Open streams of each caller that has one, in this process.
pub(super) type Streams = Arc<Mutex<BTreeMap<CallerName, u32>>>;

/// A caller's stream of one connection's tokens. It counts until it is dropped.
pub struct Watch {
    watched: Watched,
    _place: OpenPlace,
}

/// A caller's place for a stream, given back when it is dropped.
pub struct OpenPlace {
    caller: CallerName,
    streams: Streams,
}

impl Broker {
    /// Begins a stream for a caller. It gives no right: each token is asked for like any other.
    pub fn watch(&self, permit: &Provisional<'_>) -> Result<Watch, Refusal> {
        let place = self.open_stream(permit.caller())?;
        Ok(Watch { watched: self.deps.engine.watch(permit.key()), _place: place })
    }

    /// Takes a place for a stream of this caller.
    ///
    /// # Errors
    /// It has as many as it may have.
    pub fn open_stream(&self, caller: &CallerName) -> Result<OpenPlace, Refusal> {
        let most = self.settings().streams_per_caller;
        {
            let mut streams = self.streams.lock();
            let open = streams.entry(caller.clone()).or_default();
            if *open >= most {
                return Err(Refusal::TooManyStreams { most });
            }
            *open += 1;
        }
        Ok(OpenPlace { caller: caller.clone(), streams: self.streams.clone() })
    }

    /// What changes, for streams.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Callers, rules or limits changed: every stream looks again whether it may go on.
    pub fn rights_changed(&self) {
        self.deps.engine.rights_changed();
    }
}

impl Watch {
    /// Returns how often the connection changed. Ask before you look at it.
    pub fn changes(&self) -> u64 {
        self.watched.changes()
    }

    /// Completes once the connection, or anybody's rights, changed more often than this.
    pub async fn changed_since(&self, seen: u64) {
        self.watched.changed_since(seen).await;
    }
}

impl Drop for OpenPlace {
    fn drop(&mut self) {
        if let Entry::Occupied(mut open) = self.streams.lock().entry(self.caller.clone()) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}
