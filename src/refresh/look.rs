//! Finds the cached connection: serves it, or reads the store, and repairs the losses of a failover of the
//! store.

use std::sync::Arc;
use std::time::Duration;

use super::cache;
use super::failure::Failure;
use super::fly::{fly, wait};
use super::ports::Ports;
use super::slot::{At, Epoch, Flight, Held, Look, Recent, Repair, Work};
use crate::domain::connection::Status;
use crate::domain::notice::{Notice, Turn};
use crate::repository::{Connection, Loaded, RepositoryError};
use crate::store::{Committed, StoreError, StoredConnection, Writer};

/// How long a caller waits for a read that timed out before for this connection, while the store answers
/// others.
const PATIENCE_WITH_STORE: Duration = Duration::from_millis(100);
/// Reads for one request before it gives up. Each follows a read that ended, so two or three are normal.
pub(super) const MOST_LOOKS: usize = 8;
/// How often a read or a commit may be overtaken before its waiters are told.
pub(super) const MOST_OVERTAKEN: usize = 4;

/// The cached connection, if it may be served as it is.
pub(super) fn look_now(ports: &Arc<Ports>, at: At<'_>, now: Duration) -> Option<Arc<Held>> {
    let is_shared = ports.repository().is_shared();
    let serve_for = || ports.settings().serve_cached_for;
    let look = at.state().memory.look(now, is_shared, serve_for, |since| ports.answered_since(since));
    match look {
        Look::Serve(held) => Some(held),
        Look::ServeAndRead(_) | Look::Fail(_) | Look::Read { .. } => None,
    }
}

/// The cached connection. It is read if it is not cached, and checked if the last check was too long ago.
pub(super) async fn look(ports: &Arc<Ports>, at: At<'_>, begun: Duration) -> Result<Arc<Held>, Arc<Failure>> {
    let is_shared = ports.repository().is_shared();
    for _ in 0..MOST_LOOKS {
        let now = ports.monotonic();
        let serve_for = || ports.settings().serve_cached_for;
        let look = at.state().memory.look(now, is_shared, serve_for, |since| ports.answered_since(since));
        let briefly = match look {
            Look::Serve(held) => return Ok(held),
            Look::ServeAndRead(held) => {
                start_read(ports, at);
                return Ok(held);
            }
            Look::Fail(failure) => return Err(failure),
            Look::Read { briefly } => briefly,
        };
        let flight = start_read(ports, at);
        let left = ports.settings().caller_wait.saturating_sub(now.saturating_sub(begun));
        let left = if briefly { left.min(PATIENCE_WITH_STORE) } else { left };
        let failure = match wait(ports, flight, left).await {
            Some(Ok(())) => continue,
            Some(Err(failure)) => failure,
            None => Arc::new(Failure::Repository(slow_store().into())),
        };
        // The cached one from before the wait may have been deleted or connected anew meanwhile.
        let state = at.state();
        return match state.memory.outlasting(ports.monotonic(), ports.settings().serve_cached_for) {
            Some(held) if matches!(*failure, Failure::Repository(_)) => Ok(held.clone()),
            _ => Err(failure),
        };
    }
    Err(Arc::new(Failure::Repository(slow_store().into())))
}

/// The read of the store under way for the connection, started if there is none.
pub(super) fn start_read(ports: &Arc<Ports>, at: At<'_>) -> Flight {
    fly(ports, at, Work::Read, |ports, owned| async move { read(&ports, owned.at()).await })
}

/// Reads a connection and caches it. Cheap if the cached revision is the stored one.
async fn read(ports: &Arc<Ports>, at: At<'_>) -> Result<(), Arc<Failure>> {
    let begun = ports.monotonic();
    let (epoch, cached) = at.state().memory.begin_read();
    if cached.is_some() {
        match ports.repository().revision(at.key).await {
            Ok(stored) if stored == cached => {
                ports.store_answered();
                at.state().memory.read_confirmed(begun);
                return Ok(());
            }
            Ok(_) => {}
            Err(error) => return Err(store_failed(ports, at, error.into())),
        }
    }
    load(ports, at, epoch).await.map(|_| ())
}

/// Loads a connection and caches it. If a failover rolled the store back, this first repeats our last write
/// or delete. While another replica holds the lease it only loads, and caches nothing.
pub(super) async fn load(ports: &Arc<Ports>, at: At<'_>, epoch: Epoch) -> Result<Loaded, Arc<Failure>> {
    for _ in 0..MOST_OVERTAKEN {
        let begun = ports.monotonic();
        let loaded = match ports.repository().load(at.key).await {
            Ok(Some(loaded)) => {
                ports.store_answered();
                loaded
            }
            Ok(None) => {
                ports.store_answered();
                at.state().memory.read_absent(epoch, begun);
                return Err(Arc::new(Failure::NotFound));
            }
            Err(error) => return Err(store_failed(ports, at, error)),
        };
        let repair = at.state().memory.repair(&loaded.connection, ports.monotonic());
        let repaired = match repair {
            Repair::Nothing => Ok(false),
            Repair::DeleteAgain => delete_again(ports, at, &loaded).await.map(|()| true),
            Repair::StoreAgain(recent) => store_again(ports, at, &loaded.connection, &recent).await,
        };
        match repaired {
            Ok(true) => {}
            Ok(false) => {
                cache::read(ports, at, epoch, &loaded, begun);
                return Ok(loaded);
            }
            Err(error) => {
                let failure = store_failed(ports, at, error);
                at.state().memory.read_unrepaired(epoch, begun);
                return Err(failure);
            }
        }
    }
    Err(Arc::new(Failure::Repository(ever_changing("loading a connection").into())))
}

async fn delete_again(ports: &Ports, at: At<'_>, loaded: &Loaded) -> Result<(), RepositoryError> {
    tracing::warn!(
        app = %at.key.app, connection = %at.key.connection,
        "the store lost a delete that it had acknowledged (a failover?); it is deleted again"
    );
    let profile = &loaded.connection.profile;
    let tenant = profile.account().tid.as_deref();
    ports.repository().delete_sign_in(at.key, profile.sign_in(), tenant, ports.now()).await?;
    Ok(())
}

/// Stores a state again that the store had lost. Returns false while another replica holds the lease.
async fn store_again(
    ports: &Ports,
    at: At<'_>,
    stored: &Connection,
    recent: &Recent,
) -> Result<bool, RepositoryError> {
    let replaces_grant = stored.grant_place() != recent.held.connection.grant_place();
    let writer = Writer::Again { replaces_grant };
    let repository = ports.repository();
    let known = &recent.held.connection;
    let committed = if stored.profile.status() == Status::Paused && known.profile.status() != Status::Paused {
        // An operator's pause of the older state holds for the newer one, too.
        let loaded = Loaded { connection: known.clone(), sealed: StoredConnection::clone(&recent.sealed) };
        let grant = repository.open_grant(at.key, &loaded)?;
        let after = stored.revision.generation.max(known.revision.generation);
        let paused = known.profile.clone().paused().ending_handles(stored.profile.handles_over());
        let sealed = repository.seal(at.key, after, &paused, &known.tokens, grant.as_ref(), None);
        let sealed = StoredConnection { notice: lost_notice(ports, at, stored, recent), ..sealed };
        repository.commit_sealed(at.key, stored.revision, &sealed, writer).await?
    } else {
        let notice = lost_notice(ports, at, stored, recent);
        let sealed = StoredConnection { notice, ..StoredConnection::clone(&recent.sealed) };
        repository.commit_sealed(at.key, stored.revision, &sealed, writer).await?
    };
    if committed == Committed::Done {
        tracing::warn!(
            app = %at.key.app, connection = %at.key.connection,
            "the store had lost what it had acknowledged (a failover?); it is stored again"
        );
    }
    Ok(committed != Committed::Fenced)
}

/// The notice of a state that the store had lost: its own, with its id; or that of a change before it, which
/// was lost with it.
fn lost_notice(ports: &Ports, at: At<'_>, stored: &Connection, recent: &Recent) -> Option<Box<Notice>> {
    let known = &recent.held.connection.profile;
    let now = ports.now();
    let turn = match known.sign_in() == stored.profile.sign_in() {
        true => Turn::After { before: stored.profile.outlook(), at: now },
        false => Turn::SignedIn { at: now },
    };
    let nonce = &recent.held.connection.revision.nonce;
    let anew = || turn.notice(at.key, known.account().tid.as_deref(), known.outlook(), nonce).map(Box::new);
    recent.sealed.notice.clone().or_else(anew)
}

fn store_failed(ports: &Ports, at: At<'_>, error: RepositoryError) -> Arc<Failure> {
    if error.is_outage() || error.is_damage() {
        tracing::debug!(failure = %error, "a connection could not be looked up");
    } else {
        tracing::error!(failure = %error, "a connection could not be looked up");
    }
    let failure = Arc::new(Failure::Repository(error));
    let now = ports.monotonic();
    at.state().memory.read_failed(failure.clone(), now, |since| ports.answered_since(since));
    failure
}

/// Others changed the connection again and again while it was read or written.
pub(super) fn ever_changing(doing: &'static str) -> StoreError {
    StoreError::Unavailable { doing, cause: "others kept changing the connection".into() }
}

fn slow_store() -> StoreError {
    StoreError::Unavailable {
        doing: "looking up a connection",
        cause: "it did not answer within the caller's wait".into(),
    }
}
