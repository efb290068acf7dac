//! What was odd about an answer of the authority that was believed all the same.

use super::verdict::AuthorityError;

/// The rules by which something of an answer was cut or ignored, and the authority's ids of that answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks {
    /// The rules' words; none where nothing was odd.
    pub rules: Vec<String>,
    /// The ids.
    pub answer: AuthorityError,
}

impl Remarks {
    /// The rules in one text; none where nothing was odd.
    pub fn words(&self) -> Option<String> {
        (!self.rules.is_empty()).then(|| self.rules.join(", "))
    }
}
