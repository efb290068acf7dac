//! The steps of a hand-out of a held token, each by itself: a daemon of this process, its own functions, and
//! no socket. `benches/README.md` says what each row is.
//!
//! `make bench-steps`. Some ten seconds.

#![allow(clippy::print_stdout, missing_docs, unreachable_pub, reason = "printing is what a bench is for")]
#![allow(clippy::disallowed_methods, reason = "a bench looks from outside, with the real clock")]

mod measure;

#[path = "../support/mod.rs"]
mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use tokenward::api::Steps;
use tokenward::app::{Daemon, Environment, Source};
use tokenward::callers::api_key::PresentedKey;
use tokenward::config;
use tokenward::domain::random::Stock;
use tokenward::domain::time::Moment;
use tokenward::listener::steps::{Dates, Framed, with_head};
use tokenward::listener::{Limits, Origin, Peer, PeerCertificate, PlainHead, PlainRequest, RequestId};
use tokenward::system::{SystemClock, SystemRandom};
use tokenward::telemetry::audit::steps::Lines;
use tokio::runtime::Runtime;

use crate::measure::Table;
use crate::support::setup::{free_port, write_configuration};
use crate::support::{Failure, account};

/// How often a step is tried.
const MOST_TRIES: usize = 100;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (folder, public) = (tempfile::tempdir()?, free_port()?);
    let (daemon, key) = runtime.block_on(async {
        let entra = account::authority(&[public]).await?;
        let (path, key) = write_configuration(folder.path(), public, &entra.authority("common"))?;
        let loaded = config::load(&std::fs::read_to_string(&path)?, &BTreeMap::new(), &path)?;
        let daemon = Daemon::start(loaded, Source::default(), Environment::default(), None).await?;
        let port = daemon.local_addresses()[0].port();
        account::connect(port, key.expose()).await?;
        // From now on the daemon holds the token. It lives for an hour, so the emulator may end.
        account::hand_out(port, key.expose()).await?;
        Ok::<_, Failure>((daemon, key))
    })?;
    let bytes = account::native(&account::bearer(key.expose()));
    let mut table = Table::default();
    let mut framed = Framed::new(&Limits::default());
    table.row("the framing of a head", || assert!(framed.takes(black_box(bytes.as_bytes()))));
    table.row("reading a head", || with_head(black_box(bytes.as_bytes()), |head| head.method().len()));
    with_head(bytes.as_bytes(), |head| steps(&mut table, &runtime, &daemon.steps(), head, key.expose()))
        .ok_or("no plain head")??;
    print!("{table}");
    runtime.block_on(daemon.stop());
    Ok(())
}

/// The time of requests. Once a second the key files are due for a check, and nothing is answered at once
/// until then.
struct Now<'a> {
    api: &'a Steps,
    runtime: &'a Runtime,
    at: Cell<Moment>,
}

impl Now<'_> {
    fn have<T>(&self, mut step: impl FnMut(Moment) -> Option<T>) -> T {
        for _ in 0..MOST_TRIES {
            match step(self.at.get()) {
                Some(done) => return done,
                None => self.runtime.block_on(self.api.check_keys()),
            }
            self.at.set(self.api.moment());
        }
        panic!("a step is never taken");
    }
}

fn steps(
    table: &mut Table,
    runtime: &Runtime,
    api: &Steps,
    head: &PlainHead<'_>,
    key: &str,
) -> Result<(), Failure> {
    let (clock, ids) = (SystemClock::new(), Stock::new(Arc::new(SystemRandom::new())));
    let origin = Origin::Tcp(([127, 0, 0, 1], 40_000).into());
    let peer = Peer { origin, tls: false, certificate: PeerCertificate::None };
    let id = RequestId::of(head, &ids);
    let routed = Steps::route(head).ok_or("no route")?;
    let now = Now { api, runtime, at: Cell::new(api.moment()) };
    let known = now.have(|at| api.caller(&routed, head, &peer, at));
    let served = now.have(|at| api.held(&known, &routed, at));
    let at = api.moment();
    let out = api.hand_out(&known, &routed, &served, (&peer, &id, at));
    let event = out.record();
    let (mut lines, dates, mut date) = (Lines::default(), Dates::default(), Vec::new());
    let line = String::from_utf8(lines.write(&event).to_vec())?;

    table.row("a request id", || RequestId::of(head, &ids));
    table.row("URL to route", || Steps::route(black_box(head)));
    table.row("two clocks", || api.moment());
    table.row("form and checksum of an API key", || PresentedKey::parse(black_box(key)).is_some());
    table.row("API key to caller, with form and checksum", || {
        now.have(|at| api.caller(&routed, head, &peer, at))
    });
    table.row("limits of a caller", || api.admit(&known, &routed, at));
    table.row("yes of the policy", || {
        known.caller.policy.may_see(black_box(&routed.key)).and_then(|yes| yes.of_tenant(None))
    });
    table.row("slot, yes and plan", || now.have(|at| api.held(&known, &routed, at)));
    table.row("body of the answer", || Steps::body(&routed, &served, at));
    table.row("date", || {
        date.clear();
        dates.push(&mut date, &clock);
    });
    let mut memory = None;
    table.row("what is reported", || api.hand_out(&known, &routed, &served, (&peer, &id, at)));
    table.row("a record", || out.record());
    table.row("the line of a record, with its chain", || lines.write(black_box(&event)).len());
    table.row("of these the hash of the chain", || lines.link(black_box(&line)));
    table.row("all of the API, but for the record", || {
        now.have(|_| api.at_once(PlainRequest { head, peer: &peer, request_id: &id, memory: &mut memory }))
    });
    table.row("the same, with the record written to a file", || {
        let answer = now
            .have(|_| api.at_once(PlainRequest { head, peer: &peer, request_id: &id, memory: &mut memory }));
        assert!(runtime.block_on(answer.may_leave).is_ok());
    });
    Ok(())
}
