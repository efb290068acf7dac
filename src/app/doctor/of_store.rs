//! The judgement of the store. Pure.

use std::path::Path;
use std::time::Duration;

use super::clocks::{apart, in_words, is_off};
use super::facts::StoreFacts;
use super::finding::{Code, Report, Severity, fault};
use crate::store::embedded::is_enough_room;
use crate::store::observed::Risk;
use crate::store::redis::{Found, ServerSeen, StoreName};

/// The oldest Redis whose commands are all there.
const OLDEST: (u32, u32) = (6, 2);
/// Below this much, somebody should make room.
const ROOM_WARNING: u64 = 512 << 20;

/// Judges the store. `own` is how far this machine's clock is from the authority's.
pub(super) fn judge(store: &StoreFacts, own: Option<i64>, report: &mut Report) {
    match store {
        StoreFacts::Embedded { path, is_there, room } => embedded(path, *is_there, *room, report),
        StoreFacts::Redis { place, found: Err(cause), .. } => {
            report.see("store", place, "NOT REACHED");
            report.find(
                (Severity::Error, Code::StoreUnreachable),
                place,
                fault::STORE,
                format!("the store cannot be used: {cause}"),
                "see whether Redis runs, whether this machine may connect to it, and whether `[store]` \
                 names its address, user, password and certificates",
            );
        }
        StoreFacts::Redis { place, found: Ok(Found { servers, name }), remembers } => {
            servers.iter().for_each(|server| redis(server, (name, *remembers), own, report));
            if let StoreName::Another(what) = name {
                report.find(
                    (Severity::Error, Code::StoreIsAnother),
                    place,
                    fault::STORE,
                    what,
                    "restore its backup; only if what is there now shall be the store: `tokenward store \
                     adopt`",
                );
            }
        }
    }
}

fn embedded(path: &Path, is_there: bool, room: Option<(u64, u64)>, report: &mut Report) {
    let subject = path.display().to_string();
    let file = if is_there { "the file is there" } else { "no file yet: the first start makes it" };
    let free = room.map(|(free, _)| format!(", {} MiB free", free >> 20)).unwrap_or_default();
    report.see("store", &subject, format!("embedded; {file}{free}"));
    let Some((free, all)) = room.filter(|(_, all)| *all > 0) else { return };
    let severity = match free {
        free if !is_enough_room(free, all) => Severity::Error,
        free if free < ROOM_WARNING.min(all / 5) => Severity::Warning,
        _ => return,
    };
    report.find(
        (severity, Code::StoreDisk),
        &subject,
        fault::MACHINE,
        format!("the disk of the store has {} MiB left", free >> 20),
        "make room on it, or move `store.path` to another disk: deploy/RUNBOOK.md#tokenwardstoreatrisk",
    );
}

fn redis(seen: &ServerSeen, (name, remembers): (&StoreName, bool), own: Option<i64>, report: &mut Report) {
    let server = &*seen.server;
    let version = seen.version.as_deref();
    let keeps = match seen.appends {
        Some(true) => ", keeps an append-only file",
        Some(false) => ", keeps no append-only file",
        None => "",
    };
    let holds = match name {
        StoreName::Known => "holds a store".to_owned(),
        StoreName::None if remembers => "empty: the first start gives it its name".to_owned(),
        StoreName::None => "empty: the first start gives it its name (no daemon answers, and without \
                            `store.journal` nothing tells a new Redis from one that came back empty)"
            .to_owned(),
        StoreName::Another(_) => "NOT THE STORE FROM BEFORE".to_owned(),
        StoreName::Unknown(why) => format!("whether it holds a store is not known ({why})"),
    };
    report.see("store", server, format!("Redis {}{keeps}; {holds}", version.unwrap_or("of unknown version")));
    if version.and_then(major_and_minor).is_some_and(|version| version < OLDEST) {
        report.find(
            (Severity::Error, Code::StoreVersion),
            server,
            fault::STORE,
            format!("Redis {} lacks commands that the store needs", version.unwrap_or_default()),
            format!("use Redis {}.{} or later, or Valkey", OLDEST.0, OLDEST.1),
        );
    }
    for (risk, what) in &seen.risks {
        let (severity, code, fix) = of_risk(*risk);
        report.find((severity, code), server, fault::STORE, what, fix);
    }
    let is_said = seen.risks.iter().any(|(risk, _)| *risk == Risk::Persistence);
    if seen.appends == Some(false) && !is_said {
        report.find(
            (Severity::Warning, Code::StorePersistence),
            server,
            fault::STORE,
            "Redis keeps no append-only file: what was written since its last snapshot, or everything if \
             it makes none, is lost with the process, and those users have to sign in again",
            "set `appendonly yes` and `appendfsync everysec` (or `always`) in redis.conf, as \
             deploy/compose does",
        );
    }
    rights(seen, report);
    let Some(off) = seen.clocks.map(apart) else { return };
    // It has neither this machine's time nor the authorities'.
    if is_off(off) && own.is_none_or(|own| is_off(off.saturating_sub(own))) {
        report.find(
            (Severity::Warning, Code::StoreClockOff),
            server,
            fault::STORE,
            format!(
                "the clock of Redis is {} {} this machine's",
                in_words(Duration::from_millis(off.unsigned_abs())),
                if off > 0 { "ahead of" } else { "behind" }
            ),
            "have the clock of its machine follow a time server, as this machine's does",
        );
    }
}

fn rights(seen: &ServerSeen, report: &mut Report) {
    let all = seen.missing.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let what = match (&seen.no_scripts, seen.missing.is_empty()) {
        (Some(cause), _) => cause.clone(),
        (None, true) => return,
        (None, false) => format!("the user lacks rights that the store needs: {all}"),
    };
    let fix = match seen.missing.is_empty() {
        true => "give the user the rights of deploy/compose/redis.acl".to_owned(),
        false => format!(
            "give the user these rights at every server (`ACL SETUSER USER {all}`), and in the ACL file: \
             deploy/compose/redis.acl has all of them"
        ),
    };
    report.find((Severity::Error, Code::StoreRights), &seen.server, fault::STORE, what, fix);
}

fn of_risk(risk: Risk) -> (Severity, Code, &'static str) {
    match risk {
        Risk::Eviction => (
            Severity::Error,
            Code::StoreEvicts,
            "set `maxmemory-policy noeviction` in redis.conf (`CONFIG SET maxmemory-policy noeviction` \
             until then), and give tokenward a Redis of its own",
        ),
        Risk::Full => {
            (Severity::Error, Code::StoreFull, "raise `maxmemory`, or give tokenward a Redis of its own")
        }
        Risk::Persistence => (
            Severity::Error,
            Code::StorePersistence,
            "set `appendonly yes` and `appendfsync everysec` (or `always`) in redis.conf, as \
             deploy/compose does",
        ),
        Risk::Replicas => (
            Severity::Warning,
            Code::StoreReplicas,
            "start the replicas of this primary, or see in their logs why they do not follow",
        ),
        Risk::Unknown => (
            Severity::Warning,
            Code::StoreUnknown,
            "give the user of Redis the right to `INFO` (`+info`), as deploy/compose/redis.acl does",
        ),
    }
}

fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse::<u32>);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
