//! Notices for streams: one look at the store each second, however many streams there are, and none without
//! a stream.
//!
//! A store that fails over may lose notices, and gives their places to others. So whoever goes on from a
//! place also says which notice was there ([`Mark`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::notice::{Notice, is_id};
use crate::repository::Repository;
use crate::store::{NoticePage, StoreError};

/// The latest notices, kept in memory for streams that have all before them.
const RECENT: usize = 1000;
/// Notices that are read at once.
const PAGE: usize = 100;
/// Behind every place.
pub(super) const END: u64 = u64::MAX >> 12;

/// The notices of this process's streams.
pub struct Feed {
    repository: Arc<Repository>,
    recent: Mutex<Option<Recent>>,
    seen: watch::Sender<Seen>,
    listening: Arc<AtomicUsize>,
}

/// A place, and the id of the notice there, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// The place.
    pub place: u64,
    /// The id; `None` where the notice is not kept, or none has a place yet.
    pub id: Option<String>,
}

/// What was seen of the store so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The last place.
    pub last: u64,
    /// How often the store was seen to have lost notices.
    pub losses: u64,
}

/// Where a stream begins.
pub enum Begun {
    /// Behind this one.
    Behind(Mark),
    /// The notice after which it should begin is not kept any more.
    Gone,
}

/// Notices with their places.
pub type Placed = Vec<(u64, Arc<Notice>)>;

/// One stream that listens, until it is dropped.
pub struct Listening {
    seen: watch::Receiver<Seen>,
    listening: Arc<AtomicUsize>,
}

impl Mark {
    /// Returns what follows it on a page that was read from the place before it; `None` if the store lost it.
    fn behind(&self, page: NoticePage) -> Option<NoticePage> {
        let there = page.notices.first().filter(|(place, _)| *place == self.place);
        let is_another = |id: &String| there.is_some_and(|(_, notice)| notice.id != *id);
        if page.last < self.place || self.id.as_ref().is_some_and(is_another) {
            return None;
        }
        let notices = page.notices.into_iter().filter(|(place, _)| *place > self.place).collect();
        Some(NoticePage { notices, ..page })
    }
}

/// The latest notices.
struct Recent {
    /// What is before the first of them.
    base: Mark,
    /// In order, without gaps.
    notices: VecDeque<(u64, Arc<Notice>)>,
}

impl Recent {
    fn last(&self) -> Mark {
        let last = self.notices.back();
        last.map_or_else(|| self.base.clone(), |(place, notice)| Mark::of(*place, notice))
    }

    /// What follows a mark; `Some(None)` if another notice has its place, and `None` if that is not known
    /// here.
    fn behind(&self, mark: &Mark) -> Option<Option<Placed>> {
        let there = match mark.place.checked_sub(self.base.place)? {
            0 => self.base.id.as_ref(),
            at => Some(&self.notices.get(usize::try_from(at).ok()? - 1)?.1.id),
        };
        if let (Some(there), Some(id)) = (there, &mark.id)
            && there != id
        {
            return Some(None);
        }
        let behind = self.notices.iter().filter(|(place, _)| *place > mark.place);
        Some(Some(behind.take(PAGE).cloned().collect()))
    }

    fn add(&mut self, page: Vec<(u64, Notice)>) {
        for (place, notice) in page {
            // (One that cannot be read leaves a gap.)
            if place != self.last().place + 1 {
                self.notices.clear();
                self.base = Mark { place: place - 1, id: None };
            }
            self.notices.push_back((place, Arc::new(notice)));
        }
        while self.notices.len() > RECENT {
            if let Some((place, notice)) = self.notices.pop_front() {
                self.base = Mark::of(place, &notice);
            }
        }
    }
}

impl Mark {
    /// That of a notice.
    pub fn of(place: u64, notice: &Notice) -> Self {
        Mark { place, id: Some(notice.id.clone()) }
    }
}

impl Listening {
    /// Returns what is known. Ask before you read.
    pub fn seen(&mut self) -> Seen {
        *self.seen.borrow_and_update()
    }

    /// Completes when something else is known.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
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
        let (seen, _) = watch::channel(Seen::default());
        Feed { repository, recent: Mutex::default(), seen, listening: Arc::default() }
    }

    /// Begins to listen.
    pub fn listen(&self) -> Listening {
        self.listening.fetch_add(1, Ordering::AcqRel);
        Listening { seen: self.seen.subscribe(), listening: Arc::clone(&self.listening) }
    }

    /// Finds where a stream begins: behind the notice with this id, or now.
    ///
    /// # Errors
    /// The store's.
    pub async fn begin(&self, after: Option<&str>) -> Result<Begun, StoreError> {
        let Some(id) = after else { return Ok(Begun::Behind(self.end().await?)) };
        if !is_id(id) {
            return Ok(Begun::Gone);
        }
        let place = self.repository.place_of_notice(id).await?;
        let behind = |place| Begun::Behind(Mark { place, id: Some(id.to_owned()) });
        Ok(place.map_or(Begun::Gone, behind))
    }

    /// The last notice that has a place.
    async fn end(&self) -> Result<Mark, StoreError> {
        let last = self.repository.notices(END, 1).await?.last;
        let there = self.repository.notices(last.saturating_sub(1), 1).await?.notices;
        let there = there.into_iter().find(|(place, _)| *place == last);
        Ok(there.map_or(Mark { place: last, id: None }, |(place, notice)| Mark::of(place, &notice)))
    }

    /// Reads what follows a mark, some at a time. `None` if the store lost the notice there: whatever has its
    /// place and those before it was not told.
    ///
    /// # Errors
    /// The store's.
    pub async fn after(&self, mark: &Mark) -> Result<Option<Placed>, StoreError> {
        if let Some(known) = self.recent.lock().as_ref().and_then(|recent| recent.behind(mark)) {
            return Ok(known);
        }
        let page = mark.behind(self.page(mark).await?);
        Ok(page.map(|page| page.notices.into_iter().map(|(place, one)| (place, Arc::new(one))).collect()))
    }

    /// A page that begins with the mark's own notice.
    async fn page(&self, mark: &Mark) -> Result<NoticePage, StoreError> {
        self.repository.notices(mark.place.saturating_sub(1), PAGE + 1).await
    }

    /// Looks for new notices, if a stream listens.
    ///
    /// # Errors
    /// The store's.
    pub async fn look(&self) -> Result<(), StoreError> {
        if self.listening.load(Ordering::Acquire) == 0 {
            *self.recent.lock() = None;
            return Ok(());
        }
        loop {
            let known = self.recent.lock().as_ref().map(Recent::last);
            let page = match &known {
                Some(known) => known.behind(self.page(known).await?),
                None => None,
            };
            // (Only this changes it: one look is made at a time.)
            let (last, is_all) = match (known, page) {
                (Some(known), Some(page)) => {
                    let mut recent = self.recent.lock();
                    let recent = recent.get_or_insert_with(|| Recent::from(known.clone()));
                    recent.add(page.notices);
                    let last = recent.last();
                    (last.place, last.place >= page.last || last == known)
                }
                (known, _) => {
                    let end = self.end().await?;
                    if known.is_some() {
                        tracing::warn!("the store lost notices (a failover?); streams that told them end");
                        self.seen.send_modify(|seen| seen.losses += 1);
                    }
                    *self.recent.lock() = Some(Recent::from(end.clone()));
                    (end.place, true)
                }
            };
            self.seen.send_if_modified(|seen| std::mem::replace(&mut seen.last, last) != last);
            if is_all {
                return Ok(());
            }
        }
    }
}

impl From<Mark> for Recent {
    fn from(base: Mark) -> Self {
        Recent { base, notices: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::AppName;
    use crate::domain::notice::NoticeKind;
    use crate::domain::time::Timestamp;

    fn notice(id: &str) -> Notice {
        let app = AppName::parse("outlook").expect("a name");
        let at = Timestamp::from_unix_seconds(5);
        Notice { id: id.to_owned(), ..Notice::of_app(&app, NoticeKind::AppRecovered, None, "1", at) }
    }

    fn mark(place: u64, id: &str) -> Mark {
        Mark { place, id: (!id.is_empty()).then(|| id.to_owned()) }
    }

    fn placed(from: u64, ids: &[&str]) -> Vec<(u64, Notice)> {
        (from..).zip(ids).map(|(place, id)| (place, notice(id))).collect()
    }

    #[test]
    fn who_goes_on_from_a_place_that_another_notice_has_now_is_told() {
        let behind = |mark: Mark, last, notices| {
            let page = mark.behind(NoticePage { notices, last })?;
            Some(page.notices.into_iter().map(|(_, notice)| notice.id).collect::<Vec<_>>())
        };
        let page = || placed(7, &["a", "b", "c"]);
        assert_eq!(behind(mark(7, "a"), 9, page()), Some(vec!["b".into(), "c".into()]));
        assert_eq!(behind(mark(7, "lost"), 9, page()), None);
        assert_eq!(behind(mark(10, "lost"), 9, vec![]), None, "it has given no such place");
        assert_eq!(behind(mark(6, "forgotten"), 9, page()).map(|page| page.len()), Some(3));
        assert_eq!(behind(mark(0, ""), 9, page()).map(|page| page.len()), Some(3));
        assert_eq!(behind(mark(9, "c"), 9, placed(9, &["c"])), Some(vec![]));
    }

    #[test]
    fn what_is_kept_in_memory_is_bounded_and_knows_what_was_before_it() {
        let mut recent = Recent::from(mark(3, "x"));
        let behind = |recent: &Recent, mark: Mark| {
            let ids = |placed: Placed| placed.into_iter().map(|(_, one)| one.id.clone()).collect::<Vec<_>>();
            recent.behind(&mark).map(|known| known.map(ids))
        };
        assert_eq!(behind(&recent, mark(3, "x")), Some(Some(vec![])));
        assert_eq!(behind(&recent, mark(3, "y")), Some(None));
        assert_eq!(behind(&recent, mark(2, "w")), None, "ask the store");
        assert_eq!(behind(&recent, mark(4, "a")), None, "it is ahead");
        recent.add(placed(4, &["a", "b"]));
        assert_eq!(behind(&recent, mark(3, "x")), Some(Some(vec!["a".into(), "b".into()])));
        assert_eq!(behind(&recent, mark(4, "a")), Some(Some(vec!["b".into()])));
        assert_eq!(behind(&recent, mark(4, "lost")), Some(None));
        // One in between cannot be read.
        recent.add(placed(7, &["d"]));
        assert_eq!((behind(&recent, mark(5, "b")), recent.last()), (None, mark(7, "d")));
        let many: Vec<String> = (0..3 * RECENT).map(|number| number.to_string()).collect();
        recent.add(placed(8, &many.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(recent.notices.len(), RECENT);
        assert_eq!(recent.base.id.as_ref(), Some(&many[2 * RECENT - 1]));
        assert_eq!(recent.last().id.as_ref(), many.last());
    }
}
