//! Makes an answer of the authority durable before any of its tokens is served: in the store, or in the
//! journal if the store does not take it at once.

use std::sync::Arc;
use std::time::Duration;

use super::answer::{self, Place};
use super::cache;
use super::failure::Failure;
use super::look::{MOST_OVERTAKEN, ever_changing, load};
use super::ports::Ports;
use super::slot::{At, Epoch, Journaling, Source};
use crate::domain::grant::Grant;
use crate::domain::not_now::NotNow;
use crate::domain::notice::{Outlook, Turn};
use crate::domain::secret::RefreshToken;
use crate::repository::{Connection, Loaded, Unstored};
use crate::store::{Committed, LeaseNonce, Revision, Writer};

/// An answer that the store has not acknowledged by then goes into the journal.
const JOURNAL_AFTER: Duration = Duration::from_millis(40);
/// How often an answer is offered to the store again before its waiters are told.
const STORE_TRIES: u32 = 5;

/// Seals an answer as the successor of `expected`, which had the outlook `before`. It came under this lease,
/// with the refresh token `used`.
pub(super) fn seal(
    ports: &Ports,
    at: At<'_>,
    (lease, expected, before): (LeaseNonce, Revision, Outlook),
    mut connection: Connection,
    grant: Grant,
    used: RefreshToken,
) -> Unstored {
    // Above the stored generation and above our own last one: a failover may have lowered the stored one.
    let after = expected.generation.max(connection.revision.generation);
    let turn = Some(Turn::After { before, at: ports.now() });
    let Connection { profile, tokens, .. } = &connection;
    let sealed = ports.repository().seal(at.key, after, profile, tokens, Some(&grant), turn);
    connection.revision = sealed.revision;
    Unstored { lease, expected, sealed, connection, grant, used }
}

/// What became of an answer that was offered to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// It was committed under its lease: that gave the lease back and told the other replicas.
    Committed,
    /// It is stored or dropped without a commit of its own, or the journal has it, or there was none.
    Otherwise,
}

/// Makes an answer durable whose call began at `epoch`. While only the journal has it, it is offered to the
/// store again and again in the background.
pub(super) async fn keep(
    ports: &Arc<Ports>,
    at: At<'_>,
    epoch: Epoch,
    answer: Unstored,
) -> Result<Offered, Arc<Failure>> {
    at.state().memory.answered(answer);
    let patient = offer_with_patience(ports, at);
    if !ports.repository().has_journal() {
        return patient.await;
    }
    tokio::select! {
        biased;
        stored = patient => return stored,
        () = ports.sleep(JOURNAL_AFTER) => {}
    }
    // (The commit under way may succeed all the same. The next offer shows that.)
    let Some(answer) = at.state().memory.answer().cloned() else { return Ok(Offered::Otherwise) };
    match ports.repository().journal(at.key, &answer).await {
        Ok(()) => {
            journaled(ports, at, epoch, &answer).await;
            Ok(Offered::Otherwise)
        }
        Err(error) => {
            tracing::error!(
                %error,
                "a refreshed grant is neither in the store nor in the journal; it is held in memory and not \
                 served"
            );
            offer_with_patience(ports, at).await
        }
    }
}

/// The journal took an answer. From now on it is served.
async fn journaled(ports: &Ports, at: At<'_>, epoch: Epoch, answer: &Unstored) {
    let journaling = at.state().memory.journaled(answer);
    match journaling {
        Journaling::Superseded => ports.repository().unjournal(&answer.sealed.revision).await,
        Journaling::Done { is_replaced, checked_at } => {
            tracing::warn!(
                app = %at.key.app, connection = %at.key.connection,
                "the store does not take a refreshed grant; it is in the journal and is served"
            );
            // A state that was cached meanwhile (a sign-in elsewhere, a pause) is newer than the answer's
            // predecessor.
            if !is_replaced {
                cache::put(ports, at, epoch, &answer.connection, Source::Journaled, checked_at);
            }
        }
    }
}

/// Offers the answer to the store a few times before its waiters are told.
async fn offer_with_patience(ports: &Arc<Ports>, at: At<'_>) -> Result<Offered, Arc<Failure>> {
    let mut tries = 0;
    loop {
        match offer(ports, at).await {
            Err(failure) if tries < STORE_TRIES => {
                tries += 1;
                tracing::warn!(
                    app = %at.key.app, connection = %at.key.connection, %failure,
                    "the store does not take a refreshed grant; trying again"
                );
                let wait = Duration::from_millis(50) * 2u32.pow(tries);
                ports.sleep(wait).await;
            }
            outcome => return outcome,
        }
    }
}

/// Offers the unstored answer, if there is one, to the store. It is cached only once the store has taken it.
pub(super) async fn offer(ports: &Arc<Ports>, at: At<'_>) -> Result<Offered, Arc<Failure>> {
    for _ in 0..MOST_OVERTAKEN {
        let (epoch, answer, is_journaled) = {
            let state = at.state();
            (state.memory.epoch(), state.memory.answer().cloned(), state.memory.is_journaled())
        };
        let Some(answer) = answer else { return Ok(Offered::Otherwise) };
        let Unstored { expected, sealed, lease, .. } = &answer;
        let begun = ports.monotonic();
        let is_rotated = answer.grant.current != answer.used;
        // Without a new refresh token it replaces no grant.
        let writer = if is_rotated { Writer::Lease(*lease) } else { Writer::Verdict(*lease) };
        let committed = ports.repository().commit_sealed(at.key, *expected, sealed, writer).await;
        match committed {
            Ok(Committed::Done) => {
                // Another offer may have stored this one, and a newer one may have come since.
                if !at.state().memory.is_unstored(sealed.revision) {
                    continue;
                }
                cache::put(ports, at, epoch, &answer.connection, Source::Committed(sealed), begun);
                at.state().memory.settled(sealed.revision);
                if is_journaled {
                    ports.repository().unjournal(&sealed.revision).await;
                }
                return Ok(Offered::Committed);
            }
            Ok(Committed::Conflict) => overtaken(ports, at, epoch, answer, is_journaled).await?,
            // Another replica uses the grant, and that replica's result decides.
            Ok(Committed::Fenced) => return Err(Arc::new(NotNow::LeaseElsewhere.into())),
            Err(error) => return Err(Arc::new(Failure::Repository(error))),
        }
    }
    Err(Arc::new(Failure::Repository(ever_changing("storing a refreshed grant").into())))
}

/// The connection changed during the call to the authority: puts the answer where it belongs
/// ([`answer::place`]).
async fn overtaken(
    ports: &Arc<Ports>,
    at: At<'_>,
    epoch: Epoch,
    answer: Unstored,
    is_journaled: bool,
) -> Result<(), Arc<Failure>> {
    let loaded = load(ports, at, epoch).await;
    let place = match &loaded {
        Ok(loaded) => {
            let grant = ports.repository().open_grant(at.key, loaded).ok().flatten();
            answer::place(&loaded.connection, grant.as_ref(), &answer)
        }
        Err(failure) if matches!(**failure, Failure::NotFound) => Place::Nowhere, // it was deleted
        Err(failure) => return Err(failure.clone()),
    };
    match (place, loaded) {
        (Place::There, Ok(loaded)) => confirm(ports, at, &loaded, &answer, is_journaled).await,
        (Place::OnTop, Ok(loaded)) => rebase(ports, at, loaded.connection, answer, is_journaled).await,
        (_, loaded) => {
            let revision = answer.sealed.revision;
            if !at.state().memory.settled(revision) {
                return Ok(());
            }
            if is_journaled {
                ports.repository().unjournal(&revision).await;
            }
            tracing::info!(
                app = %at.key.app, connection = %at.key.connection,
                "a refreshed grant was overtaken by a newer one and is dropped"
            );
            loaded.map(|_| ())
        }
    }
}

/// The store shows the answer's grant. Writing the stored record again changes nothing, but a store that
/// waits for its replicas then waits until they have it.
async fn confirm(
    ports: &Ports,
    at: At<'_>,
    loaded: &Loaded,
    answer: &Unstored,
    is_journaled: bool,
) -> Result<(), Arc<Failure>> {
    let Loaded { connection, sealed } = loaded;
    let repository = ports.repository();
    let committed = repository.commit_sealed(at.key, connection.revision, sealed, Writer::Operator).await;
    let committed = committed.map_err(|error| Arc::new(error.into()))?;
    let revision = answer.sealed.revision;
    if committed == Committed::Done && at.state().memory.settled(revision) && is_journaled {
        repository.unjournal(&revision).await;
    }
    Ok(())
}

/// The answer goes on top of `theirs`: it is sealed again and offered once more.
async fn rebase(
    ports: &Ports,
    at: At<'_>,
    theirs: Connection,
    answer: Unstored,
    is_journaled: bool,
) -> Result<(), Arc<Failure>> {
    let before = answer.sealed.revision;
    let base = (answer.lease, theirs.revision, theirs.profile.outlook());
    let connection = answer::on_top(answer.connection, theirs);
    let again = seal(ports, at, base, connection, answer.grant, answer.used);
    let repository = ports.repository();
    if is_journaled {
        repository.journal(at.key, &again).await.map_err(|error| Arc::new(error.into()))?;
    }
    let revision = again.sealed.revision;
    let is_kept = at.state().memory.rebased(before, again);
    if is_journaled {
        let superseded = if is_kept { before } else { revision };
        repository.unjournal(&superseded).await;
    }
    Ok(())
}
