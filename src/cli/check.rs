//! `check`: finds every mistake that can be found before the daemon starts, without the network.

use serde_json::json;

use super::{ConfigPath, Exit, Failure, World};
use crate::app::Environment;
use crate::app::reading::{self, Checked};
use crate::config::{self, Mistake};

/// How to print what was found.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print {config, ok, mistakes, warnings, apps: [{app, redirect_uri, way_out}]}
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, config: &ConfigPath, world: &mut World) -> Result<(), Failure> {
    let file = config.path.display().to_string();
    let loaded = match config::load_file(&config.path, &world.env) {
        Ok(loaded) => loaded,
        Err(errors) => {
            if args.json {
                let mistakes: Vec<String> = errors.mistakes.iter().map(ToString::to_string).collect();
                let apps: [(); 0] = [];
                world.output.json(&json!({
                    "config": file, "ok": false, "mistakes": mistakes, "warnings": apps, "apps": apps,
                }))?;
            }
            let failure = config.failure(&errors);
            let number = errors.mistakes.len();
            let sum = sum(&file, number, 0);
            return Err(Failure { message: format!("{}\n{sum}", failure.message), ..failure });
        }
    };
    let environment = Environment::of_process(&world.env).as_owner_of(&loaded.config.sealing.keyring);
    let Checked { mistakes, warnings } =
        reading::check(&loaded, &environment, world.clock.clone(), world.random.clone());
    let lines = |all: Vec<Mistake>| -> Vec<String> { all.iter().map(Mistake::to_string).collect() };
    let mistakes = lines(mistakes);
    let warnings = lines(loaded.warnings.iter().cloned().chain(warnings).collect());

    let redirects: Vec<(&str, String)> = loaded
        .config
        .apps
        .keys()
        .filter_map(|app| Some((app.as_str(), loaded.config.redirect_uri(app)?)))
        .collect();
    let way_out = |app: &str| loaded.config.outbound.way_to(&loaded.config.apps[app].authority);
    if args.json {
        let apps: Vec<_> = redirects
            .iter()
            .map(|(app, uri)| json!({ "app": app, "redirect_uri": uri, "way_out": way_out(app) }))
            .collect();
        world.output.json(&json!({
            "config": file, "ok": mistakes.is_empty(), "mistakes": mistakes, "warnings": warnings,
            "apps": apps,
        }))?;
    } else {
        for (app, uri) in &redirects {
            world.output.data(&format!("{app}: register the redirect URI {uri} (platform Web)"))?;
        }
        for (app, settings) in &loaded.config.apps {
            let way = loaded.config.outbound.way_to(&settings.authority);
            world
                .output
                .data(&format!("{app}: the authority {} is reached {way}", settings.authority.host()))?;
            world.output.data(&format!(
                "{app}: its secrets stay with their token host; another host gets them only after `tokenward \
                 credentials confirm {app} HOST`"
            ))?;
        }
    }
    for warning in &warnings {
        world.output.say(&format!("warning: {warning}"));
    }
    if !mistakes.is_empty() {
        for mistake in &mistakes {
            world.output.say(mistake);
        }
        world.output.say(&sum(&file, mistakes.len(), warnings.len()));
        return Err(Failure::silent(Exit::Usage));
    }
    if !args.json {
        world.output.data(&format!(
            "{file} is good: {}, {}, {}.",
            count(redirects.len(), "app"),
            count(loaded.config.callers.len(), "caller"),
            count(warnings.len(), "warning")
        ))?;
    }
    Ok(())
}

/// The last line of a check that failed.
fn sum(file: &str, mistakes: usize, warnings: usize) -> String {
    let warnings = if warnings > 0 { format!(" and {}", count(warnings, "warning")) } else { String::new() };
    format!(
        "{file} has {}{warnings}: `serve` would not start with it, and a daemon that runs already goes on \
         with the configuration it has read before. Nothing was changed.",
        count(mistakes, "mistake")
    )
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Scene;

    const APP: &str = "[apps.outlook]\nclient_id = \"11111111-2222-3333-4444-555555555555\"\n\
                       authority = \"https://login.microsoftonline.com/common/v2.0\"\n\
                       scopes = [\"offline_access\", \"openid\", \"Mail.Read\"]\n";

    fn scene(rest: &str) -> (Scene, String) {
        let scene = Scene::new();
        let config = scene.file("t.toml", &format!("sealing.keyring = \"ring\"\n{rest}"), 0o600);
        scene.run(&["keyring", "add", "--config", &config]);
        (scene, config)
    }

    #[test]
    fn every_file_that_is_wrong_is_named_with_its_key() {
        let rest = format!(
            "store.kind = \"redis\"\nstore.url = \"rediss://r\"\nstore.password_file = \
             \"pw\"\nstore.ca_file = \"ca\"\n\
             listen.ops.tls = {{ certificate = \"cert\", key = \"key\" }}\naudit.path = \
             \"nowhere/audit.log\"\n{APP}\
             [[apps.outlook.credentials]]\nid = \"a\"\nkind = \"secret\"\nfile = \"open\"\nexpires = \
             2027-05-20\n\
             [[apps.outlook.credentials]]\nid = \"b\"\nkind = \"certificate\"\nfile = \"junk\"\n\
             [callers.a]\nauthenticate = [{{ unix_user = \"nobody-here\" }}, {{ api_keys = \"junk\" }}]\n\
             [callers.b]\nauthenticate = [{{ unix_user = 7 }}]\n[callers.c]\nauthenticate = [{{ unix_user = \
             7 }}]\n"
        );
        let (scene, config) = scene(&rest);
        scene.file("open", "hunter2", 0o644);
        scene.file("junk", "hunter2", 0o600);
        let ended = scene.run(&["check", "--config", &config]);
        assert_eq!(ended.code, 2);
        for expected in [
            "store.password_file: cannot read the secret file",
            "store.ca_file: cannot read",
            "listen.ops.tls.certificate: cannot read",
            "listen.ops.tls.key: cannot read",
            "apps.outlook.credentials[0].file: the secret file",
            "chmod 600",
            "apps.outlook.credentials[1].file",
            "callers.a.authenticate[0].unix_user: there is no user `nobody-here`",
            "callers.a.authenticate[1].api_keys: key file",
            "callers.c.authenticate[0].unix_user: the Unix user 7 is both `b` and `c`",
            "audit.path: there is no directory",
        ] {
            assert!(ended.err.contains(expected), "{expected} is missing in\n{}", ended.err);
        }
        assert!(!ended.err.contains("hunter2"), "{}", ended.err);
        let last = ended.err.lines().last().unwrap_or_default();
        assert!(last.contains(" mistakes: ") && last.ends_with("Nothing was changed."), "{last}");
        assert!(ended.out.contains("/callback/outlook"), "the redirect URI is shown all the same");
        let json = scene.run(&["check", "--json", "--config", &config]);
        assert_eq!(json.code, 2);
        let json = json.json();
        assert_eq!(json["ok"], false);
        assert!(json["mistakes"].as_array().expect("a list").len() >= 10);
    }

    #[test]
    fn a_file_that_cannot_be_read_as_a_configuration_has_a_last_line_too() {
        let (scene, config) = scene("store.knd = 1\n[apps.outlook\n");
        let ended = scene.run(&["check", "--config", &config]);
        assert_eq!(ended.code, 2);
        let lines: Vec<&str> = ended.err.lines().collect();
        assert!(lines[0].starts_with(&format!("{config}:")), "{}", ended.err);
        assert!(lines.last().is_some_and(|last| last.contains("has 1 mistake:")), "{}", ended.err);
        let nowhere = scene.run(&["check", "--config", &scene.path("nowhere.toml")]);
        assert!(nowhere.code == 2 && nowhere.err.contains("cannot read"), "{}", nowhere.err);
    }

    #[test]
    fn what_expires_soon_or_never_says_is_a_warning() {
        let (scene, config) = scene(&format!("{APP}credentials_dir = \"credentials\"\n"));
        std::fs::create_dir(scene.path("credentials")).expect("a directory");
        for name in ["a@2026-11-01.secret", "b@2026-12-01.secret", "c@2027-05-20.secret", "d.secret"] {
            scene.file(&format!("credentials/{name}"), "hunter2\n", 0o600);
        }
        let ended = scene.run(&["check", "--config", &config]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert!(ended.err.contains("a@2026-11-01.secret expired at 2026-11-01T00:00:00Z"), "{}", ended.err);
        assert!(ended.err.contains("b@2026-12-01.secret expires at 2026-12-01"), "{}", ended.err);
        assert!(!ended.err.contains("c@2027"), "{}", ended.err);
        assert!(ended.err.contains("d.secret does not say when it expires"), "{}", ended.err);
        assert!(ended.out.ends_with("1 app, 0 callers, 5 warnings.\n"), "{}", ended.out);
        scene.file("credentials/README", "x", 0o600);
        assert!(scene.run(&["check", "--config", &config]).err.contains("the name has no extension"));
    }

    #[test]
    fn root_checks_on_behalf_of_the_daemon_s_user() {
        use rustix::fs::{Gid, Uid, chown};
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (scene, config) = scene(&format!("{APP}credentials_dir = \"credentials\"\n"));
        std::fs::create_dir(scene.path("credentials")).expect("a directory");
        chown(scene.path("ring"), Some(Uid::from_raw(4711)), Some(Gid::from_raw(4712))).expect("chown");
        let file = "credentials/a@2027-05-20.secret";
        // Owner, group and mode of the file, and whether the daemon would accept it.
        for (user, group, mode, good) in [
            (4711, 0, 0o600, true),
            (4711, 4712, 0o640, false),
            (0, 4712, 0o640, true),
            (0, 0, 0o640, false),
            (4713, 4712, 0o600, false),
        ] {
            let path = scene.file(file, "hunter2", mode);
            chown(&path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).expect("chown");
            let ended = scene.run(&["check", "--config", &config]);
            assert_eq!(ended.code == 0, good, "{user}:{group} {mode:o}: {}", ended.err);
            std::fs::remove_file(path).expect("removed");
        }
    }
}
