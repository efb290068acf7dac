//! The file of a new client credential, in an app's `credentials_dir`.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Failure, World};
use crate::config::credential_from_file_name;
use crate::domain::text::is_guid;
use crate::secret_file::paste::suspicions;
use crate::secret_file::{Belongs, MAX_SECRET_SIZE, SecretReader};

/// How a file of PEM begins its blocks.
const PEM: &[u8] = b"-----BEGIN ";

/// What is about to be written.
pub(super) struct NewFile<'a> {
    /// The folder.
    pub(super) folder: &'a Path,
    /// The credential's id.
    pub(super) id: &'a str,
    /// The day on which a secret ends.
    pub(super) expires: Option<&'a str>,
}

/// Reads a new credential from a file, which must be as protected as any secret, or from standard input.
///
/// # Errors
/// It cannot be read, or it is typed at a terminal, which would show it.
pub(super) fn content(from: &Path, world: &mut World) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if from != Path::new("-") {
        let reader = SecretReader::new(world.env.get("CREDENTIALS_DIRECTORY").map(Path::new));
        return reader.read(from).map_err(|error| Failure::usage(format!("--from: {error}")));
    }
    if io::stdin().is_terminal() && world.output.is_system() {
        return Err(Failure::usage("--from -: a terminal would show the secret")
            .hint("write it to a file of mode 0600 and name that, or pipe it in"));
    }
    let content = world.output.secret_input(MAX_SECRET_SIZE);
    let content = content.map_err(|error| Failure::failed(format!("--from -: cannot read: {error}")))?;
    if content.is_empty() || content.len() > MAX_SECRET_SIZE {
        return Err(Failure::usage("--from -: standard input holds no secret, or more than one can be long"));
    }
    Ok(content)
}

/// Returns the file of the credential with this id, if the folder has one.
pub(super) fn of(folder: &Path, id: &str) -> Option<PathBuf> {
    let names = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut named = names.filter_map(|name| credential_from_file_name(folder, &name).ok());
    named.find(|one| one.id == id).map(|one| one.file)
}

impl NewFile<'_> {
    /// Writes the file, whole or not at all, with the owner and mode of those beside it. `None` if it is
    /// there with this content already.
    ///
    /// # Errors
    /// The id, the day or the content cannot be right; another credential has the id; or it cannot be
    /// written.
    pub(super) fn write(&self, content: &[u8], world: &World) -> Result<Option<PathBuf>, Failure> {
        let is_pem = content.windows(PEM.len()).any(|part| part == PEM);
        let name = match (is_pem, self.expires) {
            (true, Some(_)) => {
                return Err(Failure::usage("a certificate says itself when it ends: leave --expires out"));
            }
            (true, None) => format!("{}.pem", self.id),
            (false, Some(day)) => format!("{}@{day}.secret", self.id),
            (false, None) => format!("{}.secret", self.id),
        };
        let path = credential_from_file_name(self.folder, &name)
            .map_err(|error| Failure::usage(error.to_string()))?
            .file;
        let reader =
            SecretReader::for_owner_of(self.folder, world.env.get("CREDENTIALS_DIRECTORY").map(Path::new));
        if let Some(there) = of(self.folder, self.id) {
            let same = reader.read(&there).map_err(|error| Failure::failed(error.to_string()))?;
            if trimmed(&same) == trimmed(content) {
                return Ok(None);
            }
            return Err(Failure::failed(format!(
                "{} is there already, with another content",
                there.display()
            ))
            .hint("choose another id: both must be there until the old one is out of service"));
        }
        // Names that begin with a dot are no credentials.
        let unfinished = self.folder.join(format!(".{name}.new"));
        let made = self
            .make(&unfinished, content)
            .map_err(|error| Failure::failed(format!("cannot write to {}: {error}", self.folder.display())));
        let checked = made.and_then(|()| if is_pem { Ok(()) } else { check(&reader, &unfinished) });
        let named = checked.and_then(|()| {
            fs::rename(&unfinished, &path)
                .map_err(|error| Failure::failed(format!("cannot make {}: {error}", path.display())))
        });
        if named.is_err() {
            let _left_behind = fs::remove_file(&unfinished);
        }
        named.map(|()| Some(path))
    }

    fn make(&self, unfinished: &Path, content: &[u8]) -> io::Result<()> {
        // One of a run that was killed.
        match fs::remove_file(unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished)?;
        Belongs::in_directory(&fs::metadata(self.folder)?).give(&file)?;
        file.write_all(content)?;
        file.sync_all()
    }
}

fn trimmed(content: &[u8]) -> &[u8] {
    crate::secret_file::trim_one_line_end(content)
}

/// Refuses what would only be a warning of a file that an operator wrote: nobody looks at this one again.
fn check(reader: &SecretReader, unfinished: &Path) -> Result<(), Failure> {
    let refused = |what: &str| Failure::usage(format!("the new secret {what}"));
    let secret = reader.read_client_secret(unfinished).map_err(|error| {
        // Its name is one that nobody knows.
        let words = error.to_string().replace(&unfinished.display().to_string(), "(the new one)");
        Failure::usage(words)
    })?;
    if is_guid(secret.trim()) {
        return Err(refused("is a GUID, which is the secret's ID and not its value")
            .hint("the portal shows the value once, when the secret is made"));
    }
    match suspicions(&secret).first() {
        Some(suspicion) => Err(refused(suspicion)),
        None => Ok(()),
    }
}
