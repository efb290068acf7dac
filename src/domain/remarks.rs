//! Oddities of an answer of the authority that was believed all the same.

use super::verdict::AuthorityError;

/// The rules that cut or ignored a part of an answer, and the authority's ids of that answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks {
    /// Names of the rules; empty if nothing was odd.
    pub rules: Vec<String>,
    /// The authority's ids of the answer.
    pub answer: AuthorityError,
}

impl Remarks {
    /// Returns the rules as one text; `None` if nothing was odd.
    pub fn words(&self) -> Option<String> {
        (!self.rules.is_empty()).then(|| self.rules.join(", "))
    }
}
