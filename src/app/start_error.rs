//! Why the daemon did not start.

use super::findings::Refused;

/// Why the daemon did not start. The operator can fix each cause, and each says how.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration, or what it names, is wrong.
    #[error("{}", .0.errors)]
    Refused(Refused),
    /// Another obstacle: a lock, a socket, another process.
    #[error("{0}")]
    Failed(String),
}

impl From<Refused> for StartError {
    fn from(refused: Refused) -> Self {
        StartError::Refused(refused)
    }
}

impl StartError {
    pub(super) fn new(problem: impl std::fmt::Display) -> Self {
        StartError::Failed(problem.to_string())
    }

    /// The text with its causes, for errors that do not print them.
    pub(super) fn chain(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        StartError::Failed(text)
    }
}
