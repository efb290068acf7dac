use super::*;
use crate::cli::testing::Scene;

#[test]
fn min_ttl_is_within_the_api_s_bounds() {
    assert_eq!(min_ttl("60"), Ok(Duration::from_secs(60)));
    assert_eq!(min_ttl("24h"), Ok(Duration::from_secs(86_400)));
    for bad in ["59", "25h", "", "1x"] {
        assert!(min_ttl(bad).is_err(), "{bad}");
    }
}

/// Wrong usage is 2, found before the daemon is asked, with nothing on standard output.
#[test]
fn options_that_contradict_each_other_are_wrong_usage() {
    let scene = Scene::new();
    let endpoint = format!("unix:{}", scene.path("nobody.sock"));
    for (options, complaint) in [
        (&["--json", "--sasl", "xoauth2"][..], "--json"),
        (&["--json", "--for", "msmtp"][..], "--json"),
        (&["--sasl", "plain"][..], "xoauth2, oauthbearer"),
        (&["--for", "pine"][..], "mbsync, msmtp, neomutt, getmail, aerc, himalaya, offlineimap, dovecot"),
        (&["--host", "a"][..], "OAUTHBEARER alone"),
        (&["--sasl", "xoauth2", "--port", "993"][..], "OAUTHBEARER alone"),
        (&["--sasl", "oauthbearer", "--port", "0"][..], "--port"),
        (&["--sasl", "oauthbearer", "--host", "a b"][..], "--host"),
        (&["--user", "a@b.example"][..], "no user name"),
        (&["--sasl", "xoauth2", "--user", "a\u{1}b"][..], "--user"),
        (&["--for", "mbsync", "--sasl", "oauthbearer"][..], "mbsync does not speak OAUTHBEARER"),
        (&["--for", "msmtp", "--sasl", "oauthbearer"][..], "add --host and --port"),
        (&["--for", "dovecot"][..], "add --sasl"),
    ] {
        let base = ["token", "outlook", "a", "--endpoint", &endpoint];
        let ended = scene.run(&[&base[..], options].concat());
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{options:?}: {}", ended.err);
        assert!(ended.err.contains(complaint), "{options:?}: {}", ended.err);
    }
}

/// A token is a connection's or the app's own.
#[test]
fn a_tenant_stands_in_place_of_a_connection() {
    let scene = Scene::new();
    let endpoint = format!("unix:{}", scene.path("nobody.sock"));
    for (options, complaint) in [
        (&[][..], "<CONNECTION>"),
        (&["a", "--tenant", "home"][..], "--tenant"),
        (&["--tenant", "contoso.com"][..], "must be a tenant's id, or `home`"),
        (&["--tenant", "home", "--sasl", "xoauth2"][..], "--sasl"),
        (&["--tenant", "home", "--for", "msmtp"][..], "--for"),
        (&["--tenant", "home", "--scope", "Mail.Read"][..], "--scope"),
    ] {
        let base = ["token", "outlook", "--endpoint", &endpoint];
        let ended = scene.run(&[&base[..], options].concat());
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{options:?}: {}", ended.err);
        assert!(ended.err.contains(complaint), "{options:?}: {}", ended.err);
    }
    let ended = scene.run(&["token", "outlook", "--tenant", "home", "--json", "--endpoint", &endpoint]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""), "it asks: {}", ended.err);
}

#[test]
fn a_failure_is_one_line_with_the_way_out() {
    let scene = Scene::new();
    let endpoint = format!("unix:{}", scene.path("nobody.sock"));
    let ended = scene.run(&["token", "outlook", "a", "--endpoint", &endpoint]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert_eq!(ended.err.matches('\n').count(), 1, "{}", ended.err);
    assert!(ended.err.ends_with("--endpoint names another socket\n"), "{}", ended.err);

    // Of a file with several mistakes, the first, and how to see the others.
    let wrong = "stroe = 1\nlsiten = 1\n[[listen.local]]\nunix = \"nobody.sock\"\n";
    let config = scene.file("wrong.toml", wrong, 0o600);
    let ended = scene.run(&["token", "outlook", "a", "--config", &config]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{}", ended.err);
    assert_eq!(ended.err.matches('\n').count(), 1, "{}", ended.err);
    assert!(ended.err.contains("the configuration has mistakes (2; `tokenward check"), "{}", ended.err);
    let config = scene.path("none.toml");
    let ended = scene.run(&["token", "outlook", "a", "--config", &config]);
    assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{}", ended.err);
    assert_eq!(ended.err.matches('\n').count(), 1, "{}", ended.err);
}
