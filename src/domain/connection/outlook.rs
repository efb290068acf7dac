//! Who must act for a connection.

/// Who must act for a connection, if anybody. A pause does not count: it is the operator's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Nobody.
    Good,
    /// Its user.
    User,
    /// An administrator.
    Administrator,
}
