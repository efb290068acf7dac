//! The records of a run: of callers, the daemons' audit, the authority, and the maker of the faults. Times
//! are milliseconds since 1970 by this machine's clock, which no fault touches.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::{fs, io};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One request of a caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Its number: the low half of its request id.
    pub number: u64,
    /// When it was sent.
    pub started: u64,
    /// When its answer was there, or it was given up.
    pub ended: u64,
    /// Which replica was asked.
    pub replica: u8,
    /// Which process of that replica, counted from 1.
    pub life: u32,
    /// Which connection it was about.
    pub connection: u16,
    /// The status answered; 0 when there was no answer.
    pub status: u16,
    /// The stable code of a refusal, or why there was no answer.
    pub code: Option<String>,
    /// The token handed out.
    pub token: Option<HandedOut>,
    /// The serial of the token that the caller reported as rejected, in the same request.
    #[serde(default)]
    pub reported: Option<u64>,
    /// The door that it came through.
    #[serde(default)]
    pub door: String,
}

/// One request as its caller's own ledger has it: what the audit must say of it. One that was sent twice, for
/// its connection broke, is two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number: the low half of its request id.
    pub number: u64,
    /// The door, by its name here.
    pub door: String,
    /// The audit's words for the door and for how the caller proves who it is.
    pub word: String,
    /// See `word`.
    pub method: Option<String>,
    /// Who asked; none for a stranger.
    pub caller: Option<String>,
    /// The connection that the audit must name.
    pub connection: Option<String>,
    /// Which replica was asked.
    pub replica: u8,
    /// When it was sent.
    pub started: u64,
    /// When its answer was there, or it was given up.
    pub ended: u64,
    /// Whether the caller hung up after its first answer, so that more may have been handed out to nobody.
    #[serde(default)]
    pub hung_up: bool,
    /// What came back.
    pub answer: Answer,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A token.
    Token {
        /// Its SHA-256, in lower-case hex.
        sha256: String,
        /// Its `uti` claim.
        uti: Option<String>,
    },
    /// A refusal with this code.
    Refused(String),
    /// No answer, or no whole one.
    Lost,
}

/// What a token says about itself (the emulator's claims), and what the daemon said about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandedOut {
    /// `emu_user`
    pub user: String,
    /// `emu_family`: the sign-in.
    pub family: u64,
    /// `emu_generation`: refreshes since the sign-in.
    pub generation: u64,
    /// `emu_serial`: the issue number.
    pub serial: u64,
    /// `exp`: when it is dead, by the authority's clock.
    pub dies: u64,
    /// `expires_at`: when the daemon says it dies.
    pub said_to_die: u64,
}

/// One record of a daemon's audit stream that is about tokens: a hand-out, a refusal, or a sum of refusals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited {
    /// Whose stream.
    pub replica: u8,
    /// The request's number; none for a sum.
    #[serde(default)]
    pub call: Option<u64>,
    /// `action`
    #[serde(default)]
    pub action: String,
    /// `outcome`
    #[serde(default)]
    pub outcome: String,
    /// `caller`
    #[serde(default)]
    pub caller: Option<String>,
    /// `method`
    #[serde(default)]
    pub method: Option<String>,
    /// `door`
    #[serde(default)]
    pub door: Option<String>,
    /// `connection`
    #[serde(default)]
    pub connection: Option<String>,
    /// `token_sha256`
    #[serde(default)]
    pub token_sha256: Option<String>,
    /// `uti`
    #[serde(default)]
    pub uti: Option<String>,
    /// `suppressed`: how many refusals a sum stands for.
    #[serde(default)]
    pub suppressed: u64,
}

/// One request to the authority's token endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityCall {
    /// Its number in the authority's ledger.
    pub sequence: u64,
    /// When it came.
    pub started: u64,
    /// When it was over; none if it still lasted at the end of the run.
    pub ended: Option<u64>,
    /// Whether a whole answer left.
    pub delivered: bool,
    /// The replica that asked, by the address it came from.
    pub replica: Option<u8>,
    /// Whether it used a refresh token; otherwise a code.
    pub refresh: bool,
    /// The user it is about.
    pub user: Option<String>,
    /// The sign-in it is about.
    pub family: Option<u64>,
    /// Serial of the refresh token presented.
    pub presented: Option<u64>,
    /// Serial of the refresh token issued.
    pub issued: Option<u64>,
    /// Serial of the access token issued.
    pub access: Option<u64>,
    /// The status answered.
    pub status: Option<u16>,
    /// `error` of the answer.
    pub error: Option<String>,
    /// The AADSTS number answered.
    pub aadsts: Option<u32>,
    /// The faults that hit it.
    pub faults: Vec<String>,
}

/// What a fault does to the world, as far as it explains anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// A daemon is not there.
    Down,
    /// A daemon is there and does not run.
    Stopped,
    /// A daemon and the store do not hear each other well.
    StoreLink,
    /// A daemon and the authority do not hear each other well.
    AuthorityLink,
    /// The store's primary is gone, changed or was emptied.
    Store,
    /// The authority misbehaves.
    Authority,
    /// A daemon's wall clock is wrong.
    Clock,
}

/// One fault that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// Its number in the plan.
    pub number: u32,
    /// What kind, for the figures.
    pub kind: String,
    /// What it does.
    pub effect: Effect,
    /// The replica it hits; none for all.
    pub replica: Option<u8>,
    /// When it began.
    pub started: u64,
    /// When everything was mended again.
    pub ended: u64,
    /// More about it.
    pub detail: String,
}

/// A connection that calls are about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub user: String,
    /// The sign-ins it was made by, the latest last: a connection whose grant ended is connected again.
    pub families: Vec<u64>,
}

/// Kinds of deliberate acts on connections, made by others than the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// A caller deleted it.
    Delete,
    /// An operator revoked all of its tenant.
    Revoke,
    /// Its user signed in.
    SignIn,
    /// An operator paused it.
    Pause,
    /// An operator resumed it.
    Resume,
    /// Its user's grant was revoked at the authority.
    Verdict,
    /// The authority began to block its user.
    Block,
    /// The authority blocks its user no longer.
    Lift,
}

/// One such act. Acts on one connection follow each other: none begins before the previous one is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// What.
    pub deed: Deed,
    /// To which connections.
    pub connections: Vec<u16>,
    /// The replica that was told; none for what was done at the authority.
    pub replica: Option<u8>,
    /// Which process of that replica.
    pub life: u32,
    /// When it was told.
    pub started: u64,
    /// When it had answered, or was given up.
    pub ended: u64,
    /// Whether it was acknowledged. One that was not may have happened.
    pub done: bool,
    /// The status answered; 0 when there was no answer.
    pub status: u16,
}

/// How a connection must stand in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It gives tokens.
    #[default]
    Served,
    /// It was deleted.
    Deleted,
    /// It is paused.
    Paused,
    /// The authority ended its grant, and its user did not sign in again.
    Dead,
}

impl Ending {
    /// The code by which its callers are refused; none if they are not.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Ending::Served => None,
            Ending::Deleted => Some("connection_not_found"),
            Ending::Paused => Some("connection_paused"),
            Ending::Dead => Some("reauthorization_required"),
        }
    }
}

/// How a connection stood after the faults, once everything had time to settle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Final {
    /// Which.
    pub connection: u16,
    /// How it must stand.
    #[serde(default)]
    pub expected: Ending,
    /// Whether a token issued after the last fault was handed out for it.
    pub refreshed: bool,
    /// The replicas that gave no live token of it in the end; of one that must give none, those that did not
    /// say why.
    pub refused_by: Vec<u8>,
    /// `status` of the connection, if it was to be had.
    pub status: Option<String>,
    /// The last refusal's code.
    pub code: Option<String>,
    /// AADSTS numbers of the last refusal.
    pub error_codes: Vec<u32>,
}

/// An event that was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Its id.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Whose it is; empty for those of an app.
    pub connection: String,
}

/// What the run was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The seed of its plan.
    pub seed: u64,
    /// `entra` or `strict`.
    pub mode: String,
    /// `standalone` or `sentinel`.
    pub redis: String,
    /// Replicas.
    pub replicas: u8,
    /// For how many replicas of the store what is acknowledged has waited.
    #[serde(default)]
    pub wait_replicas: u8,
    /// How long a replica that is cut off from the store serves what it holds, in milliseconds.
    #[serde(default = "five_minutes")]
    pub serve_cached_for: u64,
    /// The lease, in milliseconds: what a fault did may be felt for so long after it.
    pub lease: u64,
    /// When faults could begin.
    pub faults_from: u64,
    /// When the last one was mended.
    pub faults_until: u64,
}

/// The daemon's own default, which runs had that did not write it down.
fn five_minutes() -> u64 {
    300_000
}

/// Everything that was written down.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What the run was.
    pub setup: Setup,
    /// The connections, by number.
    pub connections: Vec<Connected>,
    /// The callers' requests for tokens of connections, with all that is known of them.
    pub calls: Vec<Call>,
    /// The callers' own ledgers: every request through every door.
    pub entries: Vec<Entry>,
    /// The daemons' audit streams.
    pub audited: Vec<Audited>,
    /// What is wrong with the audit streams' chains.
    pub audit_flaws: Vec<String>,
    /// The authority's ledger.
    pub authority: Vec<AuthorityCall>,
    /// The faults.
    pub faults: Vec<FaultRecord>,
    /// What was done on purpose.
    pub acts: Vec<Act>,
    /// How it ended.
    pub finals: Vec<Final>,
    /// The events that were heard, each once, in their order.
    pub told: Vec<Told>,
}

impl Evidence {
    /// Writes everything into a folder, one JSON object a line.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        write(&folder.join("setup.jsonl"), [&self.setup])?;
        write(&folder.join("connections.jsonl"), &self.connections)?;
        write(&folder.join("calls.jsonl"), &self.calls)?;
        write(&folder.join("entries.jsonl"), &self.entries)?;
        write(&folder.join("audited.jsonl"), &self.audited)?;
        write(&folder.join("audit-flaws.jsonl"), &self.audit_flaws)?;
        write(&folder.join("authority.jsonl"), &self.authority)?;
        write(&folder.join("faults.jsonl"), &self.faults)?;
        write(&folder.join("acts.jsonl"), &self.acts)?;
        write(&folder.join("finals.jsonl"), &self.finals)?;
        write(&folder.join("told.jsonl"), &self.told)
    }

    /// Reads what [`Evidence::save`] wrote, to check it again.
    ///
    /// # Errors
    /// When a file cannot be read or is not what was written.
    pub fn load(folder: &Path) -> io::Result<Self> {
        Ok(Evidence {
            setup: read(&folder.join("setup.jsonl"))?.pop().unwrap_or_default(),
            connections: read(&folder.join("connections.jsonl"))?,
            calls: read(&folder.join("calls.jsonl"))?,
            entries: read(&folder.join("entries.jsonl"))?,
            audited: read(&folder.join("audited.jsonl"))?,
            audit_flaws: read(&folder.join("audit-flaws.jsonl"))?,
            authority: read(&folder.join("authority.jsonl"))?,
            faults: read(&folder.join("faults.jsonl"))?,
            acts: read(&folder.join("acts.jsonl"))?,
            finals: read(&folder.join("finals.jsonl"))?,
            told: read(&folder.join("told.jsonl")).unwrap_or_default(),
        })
    }
}

fn write<'a, T: Serialize + 'a>(path: &Path, all: impl IntoIterator<Item = &'a T>) -> io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    for one in all {
        serde_json::to_writer(&mut file, one)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let lines = BufReader::new(fs::File::open(path)?).lines();
    lines.map(|line| serde_json::from_str(&line?).map_err(io::Error::other)).collect()
}
