//! `audit who`: which callers had a connection's tokens, how often and when last, by the files of the audit
//! stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::args::{StoredConnectionArgs, instant};
use super::output::{Output, table};
use super::progress::Watched;
use super::{ConfigPath, Failure, World};
use crate::config::AuditSink;
use crate::domain::time::{Clock, Timestamp};
use crate::telemetry::audit::unpacked;

/// Longest line of the stream that is read; records are far shorter.
const LONGEST_LINE: u64 = 1 << 20;

/// Whose tokens, and where to look.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    connection: StoredConnectionArgs,
    /// Files of one sink, also packed ones (.gz), or `-` for standard input; else the configuration's file
    /// and those that logrotate made of it
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only hand-outs from this instant on (RFC 3339)
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    since: Option<Timestamp>,
    /// Print {app, connection, files, from, until, unreadable, callers: [{caller, times, first_at, last_at,
    /// doors, scopes}]}
    #[arg(long)]
    json: bool,
}

/// The members of a record that are looked at.
#[derive(Deserialize)]
struct Record {
    at: String,
    action: String,
    outcome: Option<String>,
    caller: Option<String>,
    app: Option<String>,
    connection: Option<String>,
    door: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
}

#[derive(Serialize)]
struct Answer {
    app: String,
    connection: String,
    files: Vec<String>,
    /// The time that the files tell of.
    from: Option<String>,
    until: Option<String>,
    /// Lines that are no records.
    unreadable: u64,
    /// The one that had a token last comes first.
    callers: Vec<Had>,
}

/// What one caller had.
#[derive(Default, Serialize)]
struct Had {
    caller: String,
    times: u64,
    first_at: String,
    last_at: String,
    /// The dialects that it spoke.
    doors: BTreeSet<String>,
    /// The scopes of the last token.
    scopes: Vec<String>,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let files = if args.files.is_empty() { configured(config, world)? } else { args.files.clone() };
    let mut asked = Asked::new(args);
    for file in &files {
        asked.read_file(file, &*world.clock, &mut world.output)?;
    }
    let answer = asked.answer(&files);
    if answer.unreadable > 0 {
        world.output.say(&format!(
            "warning: {} lines are no records; `tokenward audit verify` says what befell them",
            answer.unreadable
        ));
    }
    if args.json {
        return world.output.json(&answer);
    }
    let (Some(from), Some(until)) = (&answer.from, &answer.until) else {
        world.output.say("The files hold no records.");
        return Ok(());
    };
    let (app, connection) = (&answer.app, &answer.connection);
    if answer.callers.is_empty() {
        let since = args.since.map_or_else(|| from.clone(), |since| since.rfc3339());
        return world
            .output
            .data(&format!("No caller had a token of {connection} of app {app} from {since} to {until}."));
    }
    let row = |had: &Had| {
        vec![
            had.caller.clone(),
            had.times.to_string(),
            had.first_at.clone(),
            had.last_at.clone(),
            had.doors.iter().map(String::as_str).collect::<Vec<_>>().join(" "),
            had.scopes.join(" "),
        ]
    };
    let rows: Vec<Vec<String>> = answer.callers.iter().map(row).collect();
    world
        .output
        .report(&table(&["CALLER", "TIMES", "FIRST", "LAST", "THROUGH", "SCOPES OF THE LAST"], &rows))?;
    world.output.say(&format!("The files tell of {from} to {until}. `tokenward audit verify` proves them."));
    Ok(())
}

/// Finds the configured file and those that were rotated, such as `audit.jsonl-20261123-1795392000.gz`.
fn configured(config: &ConfigPath, world: &mut World) -> Result<Vec<PathBuf>, Failure> {
    // It works beside a broken file: an incident does not wait for its correction.
    let audit = config.load_readable(world)?.audit;
    let sink = audit.iter().flat_map(|audit| &audit.sinks).find_map(|sink| match sink {
        AuditSink::File(path) => Some(path.clone()),
        AuditSink::Stdout | AuditSink::Stderr | AuditSink::Syslog(_) | AuditSink::Journald(_) => None,
    });
    let Some(path) = sink else {
        return Err(Failure::usage("the audit stream does not go to a file here").hint(
            "name files with its lines, or give them on standard input: `… | tokenward audit who APP \
                 CONNECTION -`",
        ));
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed =
        |error: io::Error| Failure::failed(format!("cannot look into {}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?.path();
        let found = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_rotated = found.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['-', '.']));
        if (found == name || is_rotated) && entry.is_file() {
            files.push(entry);
        }
    }
    if files.is_empty() {
        return Err(Failure::failed(format!("there is no audit file {} yet", path.display())));
    }
    files.sort();
    Ok(files)
}

/// The question, and what was found so far.
struct Asked<'a> {
    args: &'a Args,
    found: BTreeMap<String, Had>,
    from: Option<String>,
    until: Option<String>,
    unreadable: u64,
}

impl<'a> Asked<'a> {
    fn new(args: &'a Args) -> Self {
        Asked { args, found: BTreeMap::new(), from: None, until: None, unreadable: 0 }
    }

    fn read_file(&mut self, path: &Path, clock: &dyn Clock, output: &mut Output) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
        if path == Path::new("-") {
            return self.read(output.take_input()).map_err(failed);
        }
        let file = File::open(path).map_err(failed)?;
        let watched = Watched::new(file, clock, output).map_err(failed)?;
        self.read(unpacked(path, watched)).map_err(failed)
    }

    fn read(&mut self, file: impl Read) -> io::Result<()> {
        let mut file = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if file.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            match serde_json::from_slice::<Record>(&line) {
                Ok(record) => self.take(record),
                Err(_) if line.iter().all(u8::is_ascii_whitespace) => {}
                Err(_) => self.unreadable += 1,
            }
        }
    }

    fn take(&mut self, record: Record) {
        // All instants of the stream are in one form, so the order of the text is that of time.
        if self.from.as_ref().is_none_or(|from| record.at < *from) {
            self.from = Some(record.at.clone());
        }
        if self.until.as_ref().is_none_or(|until| record.at > *until) {
            self.until = Some(record.at.clone());
        }
        let key = &self.args.connection;
        let is_meant = record.action == "token"
            && record.outcome.as_deref() == Some("ok")
            && record.app.as_deref() == Some(key.app.as_str())
            && record.connection.as_deref() == Some(key.connection.as_str())
            && self
                .args
                .since
                .is_none_or(|since| Timestamp::parse_rfc3339(&record.at).is_some_and(|at| at >= since));
        let (true, Some(caller)) = (is_meant, record.caller) else { return };
        let had = self.found.entry(caller.clone()).or_default();
        had.caller = caller;
        had.times += 1;
        if had.first_at.is_empty() || record.at < had.first_at {
            had.first_at.clone_from(&record.at);
        }
        if record.at >= had.last_at {
            had.last_at = record.at;
            had.scopes = record.scopes;
        }
        had.doors.extend(record.door);
    }

    fn answer(self, files: &[PathBuf]) -> Answer {
        let mut callers: Vec<Had> = self.found.into_values().collect();
        callers.sort_by(|one, other| other.last_at.cmp(&one.last_at));
        let key = &self.args.connection;
        Answer {
            app: key.app.to_string(),
            connection: key.connection.to_string(),
            files: files.iter().map(|file| file.display().to_string()).collect(),
            from: self.from,
            until: self.until,
            unreadable: self.unreadable,
            callers,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Scene;

    fn line(at: &str, action: &str, caller: &str, connection: &str, door: &str) -> String {
        let at = format!("2026-11-{at}Z");
        format!(
            r#"{{"at":"{at}","seq":1,"chain":"c","action":"{action}","outcome":"ok","caller":"{caller}","#
        ) + &format!(
            r#""app":"outlook","connection":"{connection}","door":"{door}","scopes":["Mail.Read"]}}"#
        ) + "\n"
    }

    #[test]
    fn who_had_it_how_often_and_when_last_over_rotated_files() {
        let scene = Scene::new();
        scene.file("audit.log-1", &line("20T00:00:00.000", "token", "mail-sync", "user-1", "native"), 0o600);
        let now = line("21T00:00:00.000", "token", "mail-sync", "user-1", "msi")
            + &line("22T00:00:00.000", "token", "webshop", "user-1", "native")
            + &line("22T01:00:00.000", "token", "webshop", "user-2", "native")
            + &line("22T02:00:00.000", "refused", "stranger", "user-1", "native")
            + "{\"at\":\"2026-11-2";
        let file = scene.file("audit.log", &now, 0o600);
        scene.file("audit.logger", &line("22T00:00:00.000", "token", "no", "user-1", "native"), 0o600);
        let config = scene.file("t.toml", "[audit]\npath = \"audit.log\"\n", 0o600);

        let who = scene.run(&["audit", "who", "outlook", "user-1", "--json", "--config", &config]);
        assert_eq!(who.code, 0, "{}", who.err);
        let json = who.json();
        let callers: Vec<_> = json["callers"].as_array().expect("a list").iter().collect();
        let names: Vec<_> = callers.iter().map(|had| had["caller"].as_str().expect("a name")).collect();
        assert_eq!(names, ["webshop", "mail-sync"], "{json}");
        assert_eq!((&callers[1]["times"], &callers[1]["doors"][0]), (&2.into(), &"msi".into()), "{json}");
        assert_eq!(callers[1]["first_at"], "2026-11-20T00:00:00.000Z");
        assert_eq!((&json["unreadable"], &json["until"]), (&1.into(), &"2026-11-22T02:00:00.000Z".into()));
        assert!(who.err.contains("1 lines are no records"), "{}", who.err);

        let named =
            scene.run(&["audit", "who", "outlook", "user-1", &file, "--since", "2026-11-22T00:00:00Z"]);
        assert!(named.out.contains("webshop") && !named.out.contains("mail-sync"), "{}", named.out);
        let nobody = scene.run(&["audit", "who", "outlook", "user-9", &file]);
        assert!(nobody.out.contains("No caller had a token of user-9"), "{}", nobody.out);
        assert_eq!(scene.run(&["audit", "who", "outlook", "user-1", "no-such-file"]).code, 2);
    }
}
