//! A single flight: work that one task does and many callers wait for. It knows tokio's `watch` and `span`.

use std::sync::Arc;

use tokio::sync::watch;

use crate::span::{self, Reference, Span};

/// A flight, as its waiters see it.
#[derive(Debug)]
pub struct Flight<T> {
    landed: watch::Receiver<Option<T>>,
    /// The span of its work.
    shown: Option<Arc<Reference>>,
}

/// The other end of a flight, for the task that does the work. If it is dropped, the flight ends without an
/// outcome.
#[derive(Debug)]
pub struct Landing<T> {
    land: watch::Sender<Option<T>>,
}

impl<T: Clone> Flight<T> {
    /// Makes a flight with both its ends.
    pub fn new() -> (Flight<T>, Landing<T>) {
        let (land, landed) = watch::channel(None);
        (Flight { landed, shown: None }, Landing { land })
    }

    /// Says which span shows its work. Those of its waiters are linked to it.
    #[must_use]
    pub fn shown_by(mut self, span: Option<&Span>) -> Self {
        self.shown = span.map(|span| Arc::new(span.reference()));
        self
    }

    /// Returns the flight under way in `current`. If there is none, a new one takes its place, and `start`
    /// must start the task that lands it.
    pub fn join(current: &mut Option<Flight<T>>, start: impl FnOnce(Landing<T>)) -> Flight<T> {
        if let Some(flight) = current.as_ref().filter(|flight| flight.is_under_way()) {
            return flight.clone();
        }
        let (flight, landing) = Flight::new();
        *current = Some(flight.clone());
        start(landing);
        flight
    }

    /// Returns false once it has landed, or its task was dropped (by a panic, or because the process stops).
    pub fn is_under_way(&self) -> bool {
        self.landed.borrow().is_none() && self.landed.has_changed().is_ok()
    }

    /// Waits for the outcome; `None` if the task was dropped before its end.
    pub async fn landed(mut self) -> Option<T> {
        if let Some(shown) = &self.shown {
            span::link(shown);
        }
        self.landed.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<T> Landing<T> {
    /// Ends the flight with this outcome.
    pub fn land(self, outcome: T) {
        let _nobody_waits = self.land.send(Some(outcome));
    }
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Self {
        Flight { landed: self.landed.clone(), shown: self.shown.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_join_a_flight_get_its_outcome_and_the_next_one_starts_anew() {
        let (mut current, mut landing) = (None, None);
        let first = Flight::join(&mut current, |started| landing = Some(started));
        let second = Flight::join(&mut current, |_| panic!("one is under way"));
        landing.expect("the first one starts it").land(7);
        assert_eq!((first.landed().await, second.clone().landed().await), (Some(7), Some(7)));
        assert_eq!(second.landed().await, Some(7), "late waiters get it too");
        let mut is_started = false;
        Flight::join(&mut current, |_| is_started = true);
        assert!(is_started, "the first has landed");
    }

    /// The outcome wakes its waiters before the sender goes: a caller in between starts anew.
    #[tokio::test]
    async fn a_flight_with_an_outcome_is_not_joined_though_its_landing_is_still_there() {
        let (flight, landing) = Flight::new();
        landing.land.send(Some(7)).expect("a waiter");
        assert!(!flight.is_under_way());
        assert_eq!(flight.landed().await, Some(7));
        drop(landing);
    }

    #[tokio::test]
    async fn a_flight_whose_task_died_wakes_its_waiters_and_is_not_joined() {
        let (mut current, mut landing) = (None, None);
        let flight = Flight::<u8>::join(&mut current, |started| landing = Some(started));
        assert!(flight.is_under_way());
        drop(landing);
        let mut is_started = false;
        Flight::join(&mut current, |_| is_started = true);
        assert!(is_started && !flight.is_under_way());
        assert_eq!(flight.landed().await, None);
    }
}
