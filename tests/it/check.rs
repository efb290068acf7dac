//! `check` and `serve` refuse the same configurations, in the same words.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::mistakes::{Row, rows};

/// How a command ended: its exit code, and its lines about the configuration.
struct Ended {
    code: Option<i32>,
    mistakes: Vec<String>,
    all: String,
}

/// Runs a command on a configuration. One that does not end by itself is a daemon that started.
fn run(command: &str, config: &Path) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args([command, "--config"])
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let begun = Instant::now();
    let code = loop {
        if let Some(ended) = child.try_wait().expect("a child of ours") {
            break ended.code();
        }
        if begun.elapsed() > Duration::from_secs(30) {
            child.kill().expect("a child of ours");
            child.wait().expect("it ends");
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut all = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut all).expect("UTF-8");
    let prefix = format!("{}:", config.display());
    let mistakes = all.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect();
    Ended { code, mistakes, all }
}

fn write(folder: &Path, row: &Row, keyring: &Path) -> std::path::PathBuf {
    for file in &row.files {
        let path = folder.join(file.name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, &file.content).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(file.mode)).expect("chmod");
    }
    std::os::unix::fs::symlink(keyring, folder.join("ring")).expect("a link");
    let config = folder.join("t.toml");
    std::fs::write(&config, &row.config).expect("written");
    config
}

#[test]
fn check_and_serve_refuse_the_same_in_the_same_words() {
    let folder = tempfile::tempdir().expect("a temp dir");
    let ring = folder.path().join("ring");
    let of_ring = folder.path().join("ring.toml");
    std::fs::write(&of_ring, "sealing.keyring = \"ring\"\n").expect("written");
    let added = Command::new(env!("CARGO_BIN_EXE_tokenward"))
        .args(["keyring", "add", "--config"])
        .arg(&of_ring)
        .output()
        .expect("it runs");
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));

    let rows = rows();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    if let Err(problem) = hold(row, &ring) {
                        wrong.lock().expect("not poisoned").push(problem);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("not poisoned");
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

fn hold(row: &Row, ring: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a temp dir");
    let config = write(folder.path(), row, ring);
    let (checked, served) = (run("check", &config), run("serve", &config));
    let mut lines = checked.mistakes.clone();
    lines.retain(|line| !line.starts_with("warning: "));
    let place = |line: &str| {
        let mut parts = line.splitn(3, ':');
        parts.next().is_some_and(|line| line.parse::<usize>().is_ok_and(|line| line > 0))
            && parts.next().is_some_and(|column| column.parse::<usize>().is_ok_and(|column| column > 0))
    };
    let problem = if checked.code != Some(2) || !matches!(served.code, Some(1 | 2)) {
        format!("ended with {:?} and {:?}", checked.code, served.code)
    } else if lines.len() != 1 || !lines[0].contains(row.says) {
        format!("check says {lines:?}")
    } else if !place(&lines[0]) {
        format!("there is no place in {lines:?}")
    } else if served.mistakes != lines {
        format!("check says {lines:?}, serve says {:?}", served.mistakes)
    } else if checked.all.contains("hunter") || served.all.contains("hunter") {
        "a secret is printed".to_owned()
    } else {
        return Ok(());
    };
    Err(format!(
        "{}\n  must be {:?};\n  {problem}\n  {}\n  {}",
        row.config, row.says, checked.all, served.all
    ))
}
