//! The configuration: one TOML file and the environment in, checked and typed values out.
//!
//! What it is for: [`load()`] turns text into a [`Config`] in which every value has already been checked, or into
//! [`ConfigErrors`], which lists every mistake at once with its file, line, column, key and nearest known key.
//!
//! What it may know: the text, the path it came from and the environment, all three passed in. It opens no socket,
//! reads no clock, and of other rooms only the values of `domain` are known here; each room takes its own section from the [`Config`].
//!
//! Invariants:
//! 1. What a key is called, what it may hold, its default and its one line of documentation stand in one table,
//!    `spec`. The messages, the JSON Schema and the reference page all come from it.
//! 2. A mistake never hides another one: a wrong value is reported, put aside, and the rest is still checked.
//! 3. No secret is ever a value here, and no message repeats the value of a key that looks like one.
//!
//! The one hard problem: reporting everything at once without reporting one mistake twice. The tree is checked against
//! the table first (`check`); whatever fails there is taken out, so that the typed reading that follows
//! (`build`) meets only values of the right kind and has only meaning left to judge.

mod build;
mod check;
mod credentials_dir;
mod diff;
mod load;
mod mistakes;
#[cfg(test)]
#[path = "../../tests/support/mistakes.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the tests from outside")]
mod mistakes_table;
mod outbound;
mod overrides;
mod places;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod schema;
mod sections;
mod spec;
mod tree;
mod url;

pub use credentials_dir::{CredentialsDirError, credential_from_file_name, read_credentials_dir};
pub use diff::{changed_sections, needs_restart};
pub use load::{Loaded, load, load_file, load_listeners};
pub use mistakes::{ConfigErrors, Mistake};
pub use places::Places;
pub use schema::{json_schema, reference_page};
pub use sections::*;
#[cfg(test)]
pub(crate) use spec::path_keys;
pub use url::{HttpUrl, UrlError};
