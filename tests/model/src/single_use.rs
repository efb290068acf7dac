//! A separate model for I10: what a browser brings back (a state record and the authority's code) is used
//! once.
//!
//! The same callback may reach several replicas: a user clicks twice, a browser repeats, or an attacker
//! replays it. Each replica takes the record from the store in one step that also removes it, and redeems the
//! code only if it got the record. A failover may bring the record back. With WAIT, an acknowledged removal
//! is safe from that; without WAIT the record may be taken twice, and only the authority remains, which
//! accepts a code once.

use stateright::{Model, Property};

/// No record is answered twice.
pub const TAKEN_ONCE: &str = "I10 a state is taken once";
/// No code gives two grants.
pub const REDEEMED_ONCE: &str = "I10 a code is redeemed once";

/// The parameters of a check.
#[derive(Debug, Clone, Copy)]
pub struct SingleUse {
    /// How many callbacks come in.
    pub callbacks: usize,
    /// True if a removal counts only when a replica of the store has it.
    pub wait: bool,
    /// How many failovers there may be.
    pub failovers: u8,
    /// How many of the store's answers may be lost.
    pub lost: u8,
    /// The record is read, and removed in a step of its own.
    pub reads_then_removes: bool,
}

/// State of a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Callback {
    /// It has come in.
    New,
    /// It has read the record and removes it next.
    Read,
    /// It has the record and redeems the code next.
    Taken,
    /// It has a grant.
    Granted,
    /// It was refused.
    Refused,
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Desk {
    callbacks: Vec<Callback>,
    record: bool,
    /// Whether a failover can bring the record back.
    comes_back: bool,
    /// Whether the authority has seen the code.
    code_used: bool,
    failovers: u8,
    lost: u8,
    taken: u8,
    /// True if a failover has brought back a record whose removal was acknowledged.
    dropped: bool,
    acknowledged: bool,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A callback goes on.
    Next(usize),
    /// Its request to the store is carried out, and the answer is lost.
    Lost(usize),
    /// The store's primary changes.
    FailOver,
}

impl Model for SingleUse {
    type State = Desk;
    type Action = Step;

    fn init_states(&self) -> Vec<Desk> {
        vec![Desk {
            callbacks: vec![Callback::New; self.callbacks],
            record: true,
            comes_back: false,
            code_used: false,
            failovers: self.failovers,
            lost: self.lost,
            taken: 0,
            dropped: false,
            acknowledged: false,
        }]
    }

    fn actions(&self, desk: &Desk, steps: &mut Vec<Step>) {
        for (index, callback) in desk.callbacks.iter().enumerate() {
            if !matches!(callback, Callback::Granted | Callback::Refused) {
                steps.push(Step::Next(index));
            }
            if *callback == Callback::New && desk.lost > 0 {
                steps.push(Step::Lost(index));
            }
        }
        if desk.failovers > 0 {
            steps.push(Step::FailOver);
        }
    }

    fn next_state(&self, desk: &Desk, step: Step) -> Option<Desk> {
        let mut next = desk.clone();
        match step {
            Step::Next(index) => {
                next.callbacks[index] = match desk.callbacks[index] {
                    Callback::New if !desk.record => Callback::Refused,
                    Callback::New if self.reads_then_removes => Callback::Read,
                    Callback::New | Callback::Read => {
                        next.remove(true, self.wait);
                        next.taken += 1;
                        Callback::Taken
                    }
                    Callback::Taken if desk.code_used => Callback::Refused,
                    Callback::Taken => {
                        next.code_used = true;
                        Callback::Granted
                    }
                    done => done,
                };
            }
            Step::Lost(index) => {
                next.lost -= 1;
                next.remove(false, self.wait);
                // Nobody knows whether it was there: the user begins again.
                next.callbacks[index] = Callback::Refused;
            }
            Step::FailOver => {
                next.failovers -= 1;
                next.dropped |= desk.comes_back && desk.acknowledged;
                next.record |= desk.comes_back;
                next.comes_back = false;
            }
        }
        next.callbacks.sort_unstable();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(TAKEN_ONCE, |_, desk: &Desk| desk.taken <= 1 || desk.dropped),
            Property::always(REDEEMED_ONCE, |_, desk: &Desk| {
                desk.callbacks.iter().filter(|callback| **callback == Callback::Granted).count() <= 1
            }),
            Property::sometimes("a callback succeeds", |_, desk: &Desk| {
                desk.callbacks.contains(&Callback::Granted)
            }),
        ]
    }
}

impl Desk {
    fn remove(&mut self, acknowledged: bool, wait: bool) {
        if self.record {
            self.comes_back = true;
            self.acknowledged = acknowledged;
        }
        self.record = false;
        if acknowledged && wait {
            self.comes_back = false;
        }
    }
}
