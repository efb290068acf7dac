//! Notices for streams: one look at the store each second, however many streams there are, and none without
//! a stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::notice::{Notice, is_id};
use crate::repository::Repository;
use crate::store::StoreError;

/// The latest notices, kept in memory for streams that have all before them.
const RECENT: usize = 1000;
/// Notices that are read at once.
const PAGE: usize = 100;

/// The notices of this process's streams.
pub struct Feed {
    repository: Arc<Repository>,
    recent: Mutex<Recent>,
    /// The last place that is known.
    last: watch::Sender<u64>,
    listening: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Recent {
    /// Without gaps, in order.
    notices: VecDeque<(u64, Arc<Notice>)>,
    /// The last place that was looked at, while there are streams.
    last: Option<u64>,
}

/// Where a stream begins.
pub enum Begun {
    /// Behind this place, and the id of the notice there, if there is one.
    Behind(u64, Option<String>),
    /// The notice after which it should begin is not kept any more.
    Gone,
}

/// One stream that listens, until it is dropped.
pub struct Listening {
    last: watch::Receiver<u64>,
    listening: Arc<AtomicUsize>,
}

impl Listening {
    /// Returns the last place that is known. Ask before you read.
    pub fn last(&mut self) -> u64 {
        *self.last.borrow_and_update()
    }

    /// Completes when there is another last place.
    pub async fn changed(&mut self) {
        if self.last.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.listening.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Feed {
    /// The notices of this repository.
    pub fn new(repository: Arc<Repository>) -> Self {
        let (last, _) = watch::channel(0);
        Feed { repository, recent: Mutex::default(), last, listening: Arc::default() }
    }

    /// Begins to listen.
    pub fn listen(&self) -> Listening {
        self.listening.fetch_add(1, Ordering::AcqRel);
        Listening { last: self.last.subscribe(), listening: Arc::clone(&self.listening) }
    }

    /// Finds where a stream begins: behind the notice with this id, or now.
    ///
    /// # Errors
    /// The store's.
    pub async fn begin(&self, after: Option<&str>) -> Result<Begun, StoreError> {
        let Some(id) = after else {
            let last = self.repository.notices(u64::MAX >> 12, 1).await?.last;
            let there = self.repository.notices(last.saturating_sub(1), 1).await?.notices;
            let there = there.into_iter().find(|(place, _)| *place == last);
            return Ok(Begun::Behind(last, there.map(|(_, notice)| notice.id)));
        };
        if !is_id(id) {
            return Ok(Begun::Gone);
        }
        let place = self.repository.place_of_notice(id).await?;
        Ok(place.map_or(Begun::Gone, |place| Begun::Behind(place, Some(id.to_owned()))))
    }

    /// Reads what follows a place, some at a time.
    ///
    /// # Errors
    /// The store's.
    pub async fn after(&self, place: u64) -> Result<Vec<(u64, Arc<Notice>)>, StoreError> {
        {
            let recent = self.recent.lock();
            if recent.last.is_some_and(|last| last == place) {
                return Ok(Vec::new());
            }
            if recent.notices.front().is_some_and(|(first, _)| *first <= place + 1) {
                let behind = recent.notices.iter().filter(|(at, _)| *at > place);
                return Ok(behind.take(PAGE).cloned().collect());
            }
        }
        let page = self.repository.notices(place, PAGE).await?;
        Ok(page.notices.into_iter().map(|(place, notice)| (place, Arc::new(notice))).collect())
    }

    /// Looks for new notices, if a stream listens.
    ///
    /// # Errors
    /// The store's.
    pub async fn look(&self) -> Result<(), StoreError> {
        if self.listening.load(Ordering::Acquire) == 0 {
            *self.recent.lock() = Recent::default();
            return Ok(());
        }
        loop {
            let known = self.recent.lock().last;
            let page = self.repository.notices(known.unwrap_or(u64::MAX >> 12), PAGE).await?;
            let last = {
                let mut recent = self.recent.lock();
                match known {
                    // (A store that lost writes counts from an earlier place.)
                    Some(known) if known <= page.last => {
                        for (place, notice) in page.notices {
                            if recent.notices.back().is_some_and(|(before, _)| before + 1 != place) {
                                recent.notices.clear();
                            }
                            recent.notices.push_back((place, Arc::new(notice)));
                        }
                        while recent.notices.len() > RECENT {
                            recent.notices.pop_front();
                        }
                        let read = recent.notices.back().map_or(known, |(place, _)| *place);
                        recent.last = Some(read.max(known));
                    }
                    _ => {
                        recent.notices.clear();
                        recent.last = Some(page.last);
                    }
                }
                recent.last.unwrap_or(page.last)
            };
            self.last.send_if_modified(|known| std::mem::replace(known, last) != last);
            if last >= page.last || known == Some(last) {
                return Ok(());
            }
        }
    }
}
