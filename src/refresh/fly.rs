//! Starts work for a connection in a task of its own, so that no waiter's end ends it; at most one of each
//! kind.

use std::sync::Arc;
use std::time::Duration;

use super::failure::Failure;
use super::ports::Ports;
use super::slot::{At, Flight, OwnedAt, Work};
use crate::span::{self, Span, Value, key};

/// The name of a renewal's span.
pub(super) const REFRESH: &str = "refresh";

/// Joins the work of this kind under way for the connection, or starts it.
pub(super) fn fly<F>(
    ports: &Arc<Ports>,
    at: At<'_>,
    work: Work,
    run: impl FnOnce(Arc<Ports>, OwnedAt) -> F,
) -> Flight
where
    F: Future<Output = Result<(), Arc<Failure>>> + Send + 'static,
{
    let begin = || span::begin(if work == Work::Renewal { REFRESH } else { "read a connection" });
    fly_as(ports, at, work, begin, run)
}

/// The same; `begin` begins the span that shows the work.
pub(super) fn fly_as<F>(
    ports: &Arc<Ports>,
    at: At<'_>,
    work: Work,
    begin: impl FnOnce() -> Option<Span>,
    run: impl FnOnce(Arc<Ports>, OwnedAt) -> F,
) -> Flight
where
    F: Future<Output = Result<(), Arc<Failure>>> + Send + 'static,
{
    let mut state = at.state();
    if let Some(flight) = state.flights.under_way(work) {
        let flight = flight.clone();
        drop(state); // a permit that `run` has is given back, to this slot too
        drop(run);
        return flight;
    }
    let span = begin();
    let (flight, landing) = Flight::new();
    let flight = flight.shown_by(span.as_ref());
    state.flights.started(work, flight.clone());
    drop(state);
    let run = run(ports.clone(), at.owned());
    let ending = at.owned();
    let task = async move {
        let ending = EndOfFlight { at: Some(ending), work };
        let outcome = shown(span, &ending, run).await;
        drop(ending);
        landing.land(outcome);
    };
    let name = match work {
        Work::Read => "look up a connection",
        Work::Renewal => "refresh a connection",
    };
    ports.spawn(name, task);
    flight
}

/// Does work with its span.
async fn shown(
    span: Option<Span>,
    ending: &EndOfFlight,
    run: impl Future<Output = Result<(), Arc<Failure>>>,
) -> Result<(), Arc<Failure>> {
    let Some(span) = span else { return run.await };
    if let Some(owned) = &ending.at {
        span.set(key::APP, Value::App(&owned.at().key.app));
    }
    let outcome = Box::pin(span::within(Some(&span), run)).await;
    tell_outcome(&span, &outcome);
    outcome
}

/// Says in its span how work ended.
pub(super) fn tell_outcome(span: &Span, outcome: &Result<(), Arc<Failure>>) {
    let word = outcome.as_ref().map_or_else(|failure| failure.word(), |()| "ok");
    span.set(key::OUTCOME, Value::Word(word));
    if outcome.is_err() {
        span.fail(Value::Word(word));
    }
}

/// Waits at most this long. `None` if the flight takes longer.
pub(super) async fn wait(
    ports: &Ports,
    flight: Flight,
    at_most: Duration,
) -> Option<Result<(), Arc<Failure>>> {
    tokio::select! {
        biased;
        outcome = flight.landed() => Some(outcome.unwrap_or(Ok(()))),
        () = ports.sleep(at_most) => None,
    }
}

/// Clears the slot's work however its task ends, a panic included, and drops a slot that knows nothing.
struct EndOfFlight {
    at: Option<OwnedAt>,
    work: Work,
}

impl Drop for EndOfFlight {
    fn drop(&mut self) {
        if let Some(owned) = self.at.take() {
            owned.at().state().flights.landed(self.work);
            owned.give_back();
        }
    }
}
