//! The files of the stream: moved away under load, verified by the daemon's own command, deleted.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::Method;
use memchr::memmem;

use crate::support::Failure;
use crate::support::http_client::request;

/// The daemon's signing key, in its folder.
pub const SIGNING_KEY: &str = "audit-signing.pem";
const PUBLIC_KEY: &str = "audit.pub";
const FILE: &str = "audit.jsonl";

/// The stream of one daemon.
pub struct Stream {
    binary: PathBuf,
    folder: PathBuf,
    /// How many files were moved away, and how many of them are deleted.
    moved: usize,
    deleted: usize,
    deleted_bytes: u64,
    verified: (u64, Duration),
    last_chain: Option<String>,
    pub lines: u64,
    /// Records of hand-outs.
    pub tokens: u64,
    pub checkpoints: u64,
    /// Lines behind the last checkpoint.
    pub unsigned: u64,
    pub flaws: Vec<String>,
}

impl Stream {
    /// Makes the signing key.
    pub fn new(binary: &Path, folder: &Path) -> Result<Self, Failure> {
        let made = Command::new(binary).args(["audit", "make-key"]).arg(folder.join(SIGNING_KEY)).output()?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into());
        }
        std::fs::write(folder.join(PUBLIC_KEY), made.stdout)?;
        Ok(Stream {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            moved: 0,
            deleted: 0,
            deleted_bytes: 0,
            verified: (0, Duration::ZERO),
            last_chain: None,
            lines: 0,
            tokens: 0,
            checkpoints: 0,
            unsigned: 0,
            flaws: Vec::new(),
        })
    }

    /// The file that is written.
    pub fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Learns how many files were moved away.
    pub fn follow(&mut self, rotation: &Rotation) {
        self.moved = rotation.moved.load(Ordering::Acquire);
    }

    /// How many files there were, with the one that is written.
    pub fn files(&self) -> usize {
        self.moved + 1
    }

    /// How many bytes are on the disk.
    pub fn kept(&self) -> Result<u64, Failure> {
        let of = |path: PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        Ok(self.of_moved().into_iter().map(of).sum::<u64>() + of(self.path()))
    }

    /// How many bytes were written so far.
    pub fn written(&self) -> Result<u64, Failure> {
        Ok(self.deleted_bytes + self.kept()?)
    }

    /// How fast files were verified.
    pub fn gib_a_minute(&self) -> f64 {
        let (bytes, time) = self.verified;
        bytes as f64 / f64::from(1 << 30) / (time.as_secs_f64() / 60.0)
    }

    fn of_moved(&self) -> Vec<PathBuf> {
        (self.deleted..self.moved).map(|number| moved(&self.path(), number)).collect()
    }

    /// Verifies the files that were moved away, and deletes them. Nothing may be asked meanwhile.
    pub fn verify_moved(&mut self) -> Result<(), Failure> {
        self.check(self.of_moved())?;
        for path in self.of_moved() {
            self.deleted_bytes += std::fs::metadata(&path)?.len();
            std::fs::remove_file(path)?;
        }
        self.deleted = self.moved;
        Ok(())
    }

    /// Verifies all that is left, after the daemon's end.
    pub fn verify(&mut self) -> Result<(), Failure> {
        let mut paths = self.of_moved();
        paths.push(self.path());
        let report = self.check(paths)?;
        self.unsigned = report["signed"]["unsigned"].as_u64().ok_or("no signatures")?;
        Ok(())
    }

    /// Verifies files, which must go on from those before.
    fn check(&mut self, paths: Vec<PathBuf>) -> Result<serde_json::Value, Failure> {
        for path in &paths {
            self.tokens += tokens(path)?;
        }
        let bytes: u64 = paths.iter().map(|path| std::fs::metadata(path).map_or(0, |file| file.len())).sum();
        let mut command = Command::new(&self.binary);
        command.args(["audit", "verify", "--json", "--public-key"]).arg(self.folder.join(PUBLIC_KEY));
        if let Some(chain) = &self.last_chain {
            command.args(["--after", chain]);
        }
        let begun = Instant::now();
        let output = command.args(&paths).output()?;
        self.verified.0 += bytes;
        self.verified.1 += begun.elapsed();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
        if report["whole"] != true {
            self.flaws.push(format!("not whole: {}", report["flaws"]));
        }
        if self.last_chain.is_none() && report["from_the_beginning"] != true {
            self.flaws.push("the stream does not begin a chain".to_owned());
        }
        self.last_chain = report["last_chain"].as_str().map(str::to_owned);
        self.lines += report["lines"].as_u64().ok_or("no lines")?;
        self.checkpoints += report["signed"]["checkpoints"].as_u64().ok_or("no checkpoints")?;
        Ok(report)
    }
}

/// How often the rotation looks at the file.
const PAUSE: Duration = Duration::from_millis(50);

/// Moves the file away whenever it is large enough, until this ends.
pub struct Rotation {
    moved: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rotation {
    pub fn start(path: PathBuf, bytes: u64) -> Self {
        let (moved_so_far, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over) = (Arc::clone(&moved_so_far), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                let is_large = std::fs::metadata(&path).is_ok_and(|file| file.len() >= bytes);
                let number = count.load(Ordering::Acquire);
                if is_large && std::fs::rename(&path, moved(&path, number)).is_ok() {
                    count.store(number + 1, Ordering::Release);
                }
                std::thread::sleep(PAUSE);
            }
        });
        Rotation { moved: moved_so_far, is_over, thread: Some(thread) }
    }
}

impl Drop for Rotation {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where a file of this number is moved.
fn moved(path: &Path, number: usize) -> PathBuf {
    path.with_extension(format!("jsonl.{number}"))
}

/// How many hand-outs a file records.
fn tokens(path: &Path) -> Result<u64, Failure> {
    let (mut reader, mut line, mut count) = (BufReader::new(File::open(path)?), Vec::new(), 0);
    let action = memmem::Finder::new(b",\"action\":\"token\",");
    while reader.read_until(b'\n', &mut line)? > 0 {
        count += u64::from(action.find(&line).is_some());
        line.clear();
    }
    Ok(count)
}

/// How many records the daemon counts as lost.
pub async fn lost(ops: u16) -> Result<u64, Failure> {
    let page = request(Method::GET, &format!("http://127.0.0.1:{ops}/metrics"), &[], "").await?.text();
    let is_count = |line: &&str| {
        line.starts_with("tokenward_audit_lost_total")
            || line.starts_with("tokenward_audit_records_lost_total")
    };
    let values =
        page.lines().filter(is_count).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum::<f64>() as u64)
}
