//! What a run is made of: its replicas, connections, store and authority, drawn by the seed.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

use super::{Cluster, Plan, REPLICAS, Replica, Target};
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::time::Timestamp;
use crate::keyring::{Keyring, SealingKey};
use crate::refresh::Settings;
use crate::repository::Repository;
use crate::testkit::SeededRandom;
use crate::testkit::authority::{Mode, SimIssuer};
use crate::testkit::clock::{SimClock, WallError};
use crate::testkit::faults::{Additions, Climate, Dice};
use crate::testkit::journal::SimDisk;
use crate::testkit::ledger::Ledger;
use crate::testkit::ledger::journal::Answer;
use crate::testkit::store::SimServer;
use crate::testkit::tasks::{SimTasks, WORLD, World};

impl Cluster {
    pub(super) fn build(world: &World, dice: &Dice, mode: Mode, plan: Plan) -> Arc<Cluster> {
        let mutant = plan.mutant;
        let climate = Climate::drawn(&dice.more());
        let life = Duration::from_secs(dice.one_of(&[40, 75, 120, 3600]));
        let wait = dice.of_thousand(300);
        let settings = Settings {
            sweep_rate: 0.0,
            caller_wait: Duration::from_secs(8),
            serve_cached_for: Duration::from_secs(30),
            lease: Duration::from_secs(12),
            authority_timeout: Duration::from_secs(4),
            most_bytes: usize::MAX,
        };
        let ledger =
            Arc::new(Ledger::new(world.clone(), settings.clone(), REPLICAS, wait, climate.wall_jumps));
        let clock = Arc::new(SimClock::new(world.clone(), WallError::default()));
        let tasks = Arc::new(SimTasks::new(world.clone(), WORLD));
        let server = SimServer::new(clock, tasks, dice.more(), REPLICAS, wait, mutant, Some(ledger.clone()));
        let issuer = SimIssuer::new(
            world.clone(),
            dice.more(),
            mode,
            mutant,
            life,
            climate.authority_sluggish,
            ledger.clone(),
        );
        let material = zeroize::Zeroizing::new([7; 32]);
        let born = Timestamp::from_unix_seconds(1);
        let key = SealingKey::new("simulated".into(), born, Some(born), material);
        let keyring = Arc::new(Keyring::new(vec![key], "in memory").expect("one promoted key"));
        let random = Arc::new(SeededRandom::new(dice.draw()));
        let insight = Repository::new(Arc::new(server.insight()), keyring.clone(), random.clone());
        ledger.look_into(insight, issuer.clone());
        let (of_store, of_keyring) = (server.clone(), keyring.clone());
        ledger.open_entries_with(Box::new(move |entry| {
            let store = Arc::new(of_store.insight());
            Answer::of(Repository::new(store, of_keyring.clone(), random.clone()), entry)
        }));
        let app = AppName::parse("outlook").expect("name");
        let targets = (0..3 + u32::try_from(dice.below(3)).unwrap_or(0)).map(|user| {
            issuer.add_user(user, user.is_multiple_of(3));
            issuer.add_user(user + 100, false);
            let name = ConnectionName::parse(&format!("user-{user}")).expect("name");
            let key = ConnectionKey { app: app.clone(), connection: name };
            Target { key, user, handed_out: Mutex::default() }
        });
        let mut targets: Vec<Target> = targets.collect();
        let asked = targets.len();
        let cluster_dice = dice.more();
        let more_dice = dice.more();
        let additions = if plan.plain { Additions::default() } else { Additions::drawn(&more_dice) };
        let settings = Settings { sweep_rate: additions.sweep_rate, ..settings };
        if additions.sweeps() {
            targets.push(idle_target(&issuer, &app));
            ledger.is_idle(&targets[asked].key);
        }
        let disk = |replica| SimDisk::new(world.clone(), more_dice.more(), replica, mutant, ledger.clone());
        let replicas = (0..REPLICAS).map(|replica| Replica {
            wall_error: WallError::default(),
            disk: additions.journals.then(|| disk(replica)),
            process: None,
            stopped: false,
        });
        let replicas = Mutex::new(replicas.collect());
        world.note(format_args!("{mode:?}, tokens live {life:?}, wait {wait}, {climate:?}"));
        if !plan.plain {
            world.note(format_args!("{additions:?}"));
        }
        Arc::new(Cluster {
            world: world.clone(),
            dice: cluster_dice,
            climate,
            mode,
            settings,
            server,
            issuer,
            ledger,
            keyring,
            replicas,
            targets,
            asked,
            additions,
            more_dice,
            lives: Mutex::new(0),
            last: Mutex::default(),
            revoking: Mutex::default(),
        })
    }
}

/// Makes a connection that nobody asks for.
fn idle_target(issuer: &SimIssuer, app: &AppName) -> Target {
    const USER: u32 = 50;
    issuer.add_user(USER, false);
    issuer.add_user(USER + 100, false);
    let name = ConnectionName::parse("user-9").expect("name");
    let key = ConnectionKey { app: app.clone(), connection: name };
    Target { key, user: USER, handed_out: Mutex::default() }
}
