use crate::cli::testing::Scene;

#[test]
fn the_first_key_is_primary_and_an_empty_ring_says_what_to_do() {
    let scene = Scene::new();
    let config = scene.file("t.toml", "[sealing]\nkeyring = \"ring\"\n", 0o600);
    let missing = scene.run(&["keyring", "status", "--config", &config]);
    assert!(missing.code == 1 && missing.err.contains("sealing.keyring"), "{}", missing.err);
    std::fs::create_dir(scene.path("ring")).expect("a directory");
    let empty = scene.run(&["keyring", "status", "--config", &config]);
    assert!(empty.code == 1 && empty.err.contains("tokenward keyring add"), "{}", empty.err);
    let added = scene.run(&["keyring", "add", "--config", &config]);
    assert_eq!((added.code, added.out.lines().count()), (0, 1), "{}", added.err);
    assert!(added.err.contains("seals from now on"));
    let status = scene.run(&["keyring", "status", "--config", &config]);
    assert!(status.err.contains("what the files say"), "{}", status.err);
    assert!(status.out.lines().count() == 2 && status.out.trim_end().ends_with("yes"), "{}", status.out);
}

#[test]
fn without_a_daemon_files_are_promoted_and_back_unless_others_use_the_store_too() {
    let scene = Scene::new();
    let config = scene.file("t.toml", "[sealing]\nkeyring = \"ring\"\n", 0o600);
    let run = |words: &[&str]| scene.run(&[words, &["--config", &config]].concat());
    let id = |words: &[&str]| run(words).out.trim().to_owned();
    let (first, second) = (id(&["keyring", "add"]), id(&["keyring", "add"]));
    let primary = || {
        let keys = run(&["keyring", "status", "--json"]).json();
        let keys = keys.as_array().expect("a list").clone();
        keys.iter().find(|key| key["primary"] == true).map(|key| key["id"].as_str().expect("id").to_owned())
    };
    for id in [&second, &first] {
        let promoted = run(&["keyring", "promote", id]);
        assert_eq!((promoted.code, promoted.out.trim()), (0, id.as_str()), "{}", promoted.err);
        assert!(promoted.err.contains("Could not ask"), "{}", promoted.err);
        assert_eq!(primary().as_ref(), Some(id));
    }
    let unknown = run(&["keyring", "promote", "nobody"]);
    assert!(unknown.code == 1 && unknown.err.contains(&second), "{}", unknown.err);
    // Nobody can say what is sealed with it.
    let refused = run(&["keyring", "retire", &second]);
    assert!(refused.code == 1 && refused.err.contains("--unchecked"), "{}", refused.err);
    let refused = run(&["keyring", "retire", &first, "--unchecked"]);
    assert!(refused.code == 1 && refused.err.contains("is the primary"), "{}", refused.err);
    assert_eq!(run(&["keyring", "retire", &second, "--unchecked"]).code, 0);

    let shared = "[sealing]\nkeyring = \"ring\"\n[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:1\"\n";
    let shared = scene.file("shared.toml", shared, 0o600);
    let third = scene.run(&["keyring", "add", "--config", &shared]).out.trim().to_owned();
    let refused = scene.run(&["keyring", "promote", &third, "--config", &shared]);
    assert!(refused.code == 1 && refused.err.contains("--unchecked"), "{}", refused.err);
    assert_eq!(primary().as_ref(), Some(&first));
    assert_eq!(scene.run(&["keyring", "promote", &third, "--unchecked", "--config", &shared]).code, 0);
}

#[test]
fn systemd_s_copy_is_not_written_to() {
    let scene = Scene::new();
    for ring in ["/run/credentials/tokenward.service".to_owned(), scene.path("copy")] {
        let config = scene.file("t.toml", &format!("[sealing]\nkeyring = \"{ring}\"\n"), 0o600);
        let copy = scene.path("copy");
        for words in [&["add"][..], &["promote", "x", "--unchecked"], &["retire", "x", "--unchecked"]] {
            let words = [&["keyring"], words, &["--config", &config]].concat();
            let refused = scene.run_in(&words, &[("CREDENTIALS_DIRECTORY", &copy)]);
            assert_eq!(refused.code, 1);
            assert!(
                refused.err.contains("is systemd's copy") && refused.err.contains(&ring),
                "{}",
                refused.err
            );
            assert!(refused.err.contains("LoadCredential=") && refused.err.contains("restart the unit"));
        }
        assert!(!std::path::Path::new(&ring).exists(), "nothing is made");
        let status = scene.run(&["keyring", "status", "--config", &config]);
        assert!(!status.err.contains("systemd's copy"), "{}", status.err);
    }
}

#[test]
fn a_key_is_retired_whatever_api_keys_there_are_unless_they_are_from_before() {
    let scene = Scene::new();
    let directory = scene.path("t");
    let made = scene.run(&["init", &directory, "--json"]).json();
    let (config, first) = (format!("{directory}/tokenward.toml"), made["keyring_key"].as_str().expect("id"));
    let run = |words: &[&str]| scene.run(&[words, &["--config", &config]].concat());
    let second = run(&["keyring", "add"]).out.trim().to_owned();
    assert_eq!(run(&["keyring", "promote", &second]).code, 0);
    let listed = || run(&["callers", "list-keys", "cli", "--json"]).json();
    let key = listed()[0]["id"].as_str().expect("id").to_owned();
    assert!(listed()[0]["sealing_key"].is_null());
    assert_eq!(run(&["keyring", "status", "--json"]).json()[0]["api_keys"], serde_json::json!([]));

    // As before 0.2.
    let keys = format!("{directory}/callers/cli.keys");
    let unkeyed = std::fs::read_to_string(&keys).expect("text");
    std::fs::write(&keys, unkeyed.replace(" sha256 ", &format!(" {first} "))).expect("written");
    assert_eq!(listed()[0]["sealing_key"], first);
    let status = run(&["keyring", "status"]);
    assert!(status.err.contains(&format!("the sealing key {first} is there: cli {key}")), "{}", status.err);
    let shown = run(&["keyring", "status", "--json"]).json();
    let first_shown = shown.as_array().expect("a list").iter().find(|one| one["id"] == first);
    let expected = serde_json::json!([{ "caller": "cli", "id": key }]);
    assert_eq!(first_shown.expect("there")["api_keys"], expected);
    assert!(run(&["callers", "list-keys", "cli"]).err.contains("is from before 0.2"));
    let refused = run(&["keyring", "retire", first, "--unchecked"]);
    assert!(refused.code == 1 && refused.err.contains(&format!("cli {key}")), "{}", refused.err);

    std::fs::write(&keys, unkeyed).expect("written");
    assert_eq!(run(&["keyring", "retire", first, "--unchecked"]).code, 0);
}
