//! An exhaustive model of the refresh protocol: every interleaving of several replicas, and every fault,
//! within bounds.
//!
//! A refresh token may work only once. Replicas share a store and know about each other only through it. They
//! must renew a grant so that no answer of the authority is lost or overwritten, no deleted connection comes
//! back, and no user must sign in again without need. Meanwhile processes die and stall, answers get lost,
//! and a failover of the store takes back acknowledged writes.
//!
//! [`protocol`] has the steps of a replica, [`store`] the atomic writes, [`world`] the state, [`properties`]
//! the properties, [`catalogue`] the configurations, and [`Bug`] the rules, each of which can be switched
//! off. `tests/protocol.rs` checks the small configurations, `tests/bugs.rs` that no rule can be left out,
//! and `cargo run --release -p refresh-model -- full` the large ones. [`single_use`] is a small separate
//! model for callbacks (I10).
//!
//! # What happens in it
//!
//! * **Store.** Each write is one step. It may go unanswered; then it is carried out at once, at any later
//!   time, or never. A failover takes back any suffix of the last four writes. With [`Setup::wait`] what was
//!   acknowledged is replicated, and only unanswered writes can be taken back. Leases run out by the store's
//!   time: those that nobody holds at any moment, those of a living holder as often as [`Budget::pauses`]
//!   says, whatever the holder is doing.
//! * **Authority.** [`Authority::Entra`] (reuse `safe`), [`Authority::Strict`] and [`Authority::Rotating`]
//!   (reuse `never`: a used token kills the family, or is only refused). Tokens are stamped with sign-in and
//!   number. A call may go unanswered, and a request reach the authority long after its sender gave up or
//!   died.
//! * **Replicas** run one flight for a connection at a time. A crash loses memory, keeps the journal, and
//!   restarts; a replica that never comes back is one that takes no step. Replicas are interchangeable, and
//!   so are nonces: states that differ in names are one ([`Setup::symmetry`]).
//! * **Messages** say "something changed" and nothing else. That a replica looks again at any time, or never,
//!   is all that losing, repeating and reordering them can do, so there is no queue of them.
//!   [`Bug::TrustsMessages`] and [`Bug::WaitsForMessage`] are the protocols for which this would not be so.
//! * **Time** is three ages of an access token: fresh, due, dead. Each configuration allows one or two steps.
//! * **Users** delete and sign in again at any replica and any moment; the authority may end a grant of its
//!   own.
//!
//! In all, `-- full` visits 26.5 million unique states in 102 configurations (98 million generated) and takes
//! about eight minutes on one core.
//!
//! Faults are counted down ([`Budget`]) and that is what makes the state space finite; there is no bound on
//! depth. What each configuration allows stands in [`catalogue`].
//!
//! # What may go wrong nevertheless
//!
//! * *A failover without WAIT* takes back what was acknowledged. Then a used token may be sent by somebody
//!   who cannot know (strict: the grant dies, and says so); a rotation that only a crashed process knew is
//!   lost; a deleted connection is back until the replica that deleted it looks; a sign-in may be gone.
//!   `World::dropped` excuses just these, in I6 and I7 and in no other property. With WAIT nothing is
//!   excused.
//! * *Strict, and an outcome in doubt*: once no access token lives, the used token is tried as the last
//!   resort and may kill the family. A call of a paused holder, or one that arrives late, may too. All of
//!   them leave the intent or a verdict behind: never silently.
//! * *I7 on other replicas*: they serve what they hold until they look again (a second). The model has no
//!   seconds; it requires that who has looked serves no more.
//! * *Liveness* is checked from every reachable state, not only from quiet ones: faults stop, flights end,
//!   leases that nobody holds run out, all access tokens die, and each replica in turn is asked for a token.
//!   It must come to one, or to a connection that is gone or rightly dead. It is a witness schedule (`AG
//!   EF`), not fairness over all of them.
//!
//! # What it does not cover
//!
//! A store that is split in two and accepts writes on both sides, or answers reads from the past; reads that
//! go unanswered (they change nothing: the flight ends); more than one resource for a connection; the
//! previous refresh token that is kept until the newest has worked; second opinions; back-off; sealing; a
//! torn journal; and real time. The `recent` memory has no end here, where it has two minutes in the daemon.

mod bugs;
pub mod catalogue;
pub mod properties;
pub mod protocol;
pub mod setup;
pub mod single_use;
pub mod store;
pub mod trace;
pub mod world;

pub use bugs::Bug;
pub use setup::{Authority, Budget, Setup};

use stateright::{Model, Property};

/// The model of one configuration.
#[derive(Debug, Clone)]
pub struct RefreshModel {
    /// The configuration.
    pub setup: Setup,
}

impl Model for RefreshModel {
    type State = world::World;
    type Action = protocol::Action;

    fn init_states(&self) -> Vec<Self::State> {
        vec![world::World::new(&self.setup)]
    }

    fn actions(&self, world: &Self::State, actions: &mut Vec<Self::Action>) {
        protocol::actions(world, &self.setup, actions);
    }

    fn next_state(&self, world: &Self::State, action: Self::Action) -> Option<Self::State> {
        let mut next = world.clone();
        protocol::happen(&mut next, &self.setup, action);
        if self.setup.symmetry {
            next = next.canonical();
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
