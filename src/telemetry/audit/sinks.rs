//! Several sinks at once.

use std::fmt;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::checkpoint::Signing;
use super::queue::Record;
use super::sink::{AuditError, AuditSink};
use super::writer::AuditWriter;
use super::{Audit, AuditEvent, HandOutRecord, Noted, Recorded};
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::telemetry::metrics::Metrics;

/// Writes every record to each of several sinks.
///
/// A request waits until every sink has its record, but for those that are stuck, and until one sink at least
/// has it. The wait for each sink has its own end, so that it is never longer than for one.
pub struct AuditSinks {
    writers: Vec<AuditWriter>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for AuditSinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditSinks")
    }
}

impl AuditSinks {
    /// Opens the sinks and starts their threads.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn open(
        sinks: &[AuditSink],
        signing: &Arc<Signing>,
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<dyn Audit>, AuditError> {
        metrics.rename(|names| names.audit_sinks = sinks.iter().map(ToString::to_string).collect());
        let open = |sink: &AuditSink| {
            let counts = metrics.audit_sink(&sink.to_string(), sinks.len() == 1);
            AuditWriter::open(sink, sinks.len() == 1, signing.clone(), clock.clone(), counts)
        };
        Ok(match sinks {
            [one] => Arc::new(open(one)?),
            several => {
                let writers = several.iter().map(open).collect::<Result<Vec<_>, _>>()?;
                Arc::new(AuditSinks { writers, metrics: metrics.clone() })
            }
        })
    }

    #[cfg(test)]
    pub(super) fn of(writers: Vec<AuditWriter>, metrics: Arc<Metrics>) -> Self {
        AuditSinks { writers, metrics }
    }
}

impl AuditSinks {
    /// Has every sink take the record, at once, and waits for them.
    fn all(&self, record: &Record) -> impl Future<Output = Recorded> + Send + '_ {
        let begun =
            |writer| (AuditWriter::is_stuck(writer), AuditWriter::take_and_wait(writer, record.clone()));
        let begun: Vec<(bool, BoxFuture<'_, Recorded>)> = self.writers.iter().map(begun).collect();
        async move {
            let mut sound = begun.iter().filter(|(is_stuck, _)| !is_stuck).count();
            let each = begun.into_iter().map(async |(is_stuck, record)| (is_stuck, record.await));
            let mut waiting: FuturesUnordered<_> = each.collect();
            let mut outcome = Recorded::Lost;
            while let Some((is_stuck, recorded)) = waiting.next().await {
                sound -= usize::from(!is_stuck);
                if recorded == Recorded::Written {
                    outcome = Recorded::Written;
                }
                // (What a stuck sink still has to write is in its queue.)
                if outcome == Recorded::Written && sound == 0 {
                    break;
                }
            }
            if outcome == Recorded::Lost {
                self.metrics.audit_lost(1);
            }
            outcome
        }
    }
}

impl Audit for AuditSinks {
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Recorded> {
        Box::pin(self.all(&event.into()))
    }

    fn record_hand_out(self: Arc<Self>, record: HandOutRecord) -> BoxFuture<'static, Recorded> {
        Box::pin(async move { self.all(&Record::HandOut(record)).await })
    }

    fn tick(&self) {
        self.writers.iter().for_each(Audit::tick);
    }

    fn end(&self) {
        // Together: each may take its time.
        std::thread::scope(|scope| self.writers.iter().for_each(|writer| drop(scope.spawn(|| writer.end()))));
    }

    fn note(&self, event: AuditEvent) -> Noted {
        let taken = self.writers.iter().filter(|writer| writer.note(event.clone()) == Noted::Taken).count();
        if taken > 0 { Noted::Taken } else { Noted::NoRoom }
    }
}

#[cfg(test)]
mod tests;
