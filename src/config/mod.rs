//! The configuration: from one TOML file and the environment to checked and typed values.
//!
//! Purpose: [`load()`] turns text into a [`Config`] in which every value has been checked, or into
//! [`ConfigErrors`], which lists every mistake at once with its file, line, column, key and nearest known
//! key.
//!
//! May know: the text, its path and the environment, which are all arguments; values of `domain`, the rules
//! of `policy` and the reader of `secret_file`. It opens no socket and reads no clock, and knows no other
//! room: each room takes its own section from the [`Config`].
//!
//! Invariants:
//! 1. One table, `spec`, has the name of every key, its kind, its default and its line of documentation. The
//!    messages, the JSON Schema and the reference page all come from it.
//! 2. No mistake hides another: a wrong value is reported and put aside, and the rest is still checked.
//! 3. No value here is ever a secret, and no message repeats the value of a key that looks like one.
//!
//! The one hard problem: reporting everything at once, and nothing twice. The tree is first checked against
//! the table (`check`), and bad values are removed. The typed reading that follows (`build`) therefore meets
//! only values of the right kind, and only judges their meaning.

mod audit;
mod build;
mod check;
mod context;
mod credentials_dir;
mod diff;
mod issuers;
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
mod relay;
mod rule;
mod schema;
mod scope_list;
mod sections;
mod spec;
mod traces;
mod tree;
mod url;
mod webhooks;

pub use credentials_dir::{CredentialsDirError, credential_from_file_name, read_credentials_dir};
pub use diff::{cannot_change, changed_sections, leave_for_a_restart};
pub use load::{Loaded, load, load_file, load_listeners, load_readable};
pub use mistakes::{ConfigErrors, Mistake, Topic};
pub use places::Places;
pub use schema::{json_schema, list_item, reference_page};
pub use sections::*;
pub(crate) use spec::nearest;
#[cfg(test)]
pub(crate) use spec::path_keys;
pub use url::{HttpUrl, UrlError};
