//! The short reference of a request: a page shows it to a user, and an operator finds the request by it. It
//! is the beginning of the request's id, which log and audit have.

/// Digits of the id that are shown.
const SHOWN: usize = 8;
/// Digits of a whole id.
const WHOLE: usize = 32;

/// The beginning of a request's id, as somebody quotes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(String);

/// Error: the text is no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a reference such as 9F86-D081, or a request id of 32 hexadecimal digits")]
pub struct NoReference;

impl Reference {
    /// Parses `9F86-D081`, in either case and with or without its hyphen, or more of a request's id.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, NoReference> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        let is_one = (SHOWN..=WHOLE).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if is_one { Ok(Reference(digits.to_ascii_lowercase())) } else { Err(NoReference) }
    }

    /// Returns true if this request is meant.
    pub fn is_of(&self, request_id: &str) -> bool {
        request_id.starts_with(&self.0)
    }

    /// Returns its digits, as a request's id begins in log and audit.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

/// Returns the reference of a request as it is shown: `9F86-D081`.
pub fn shown(request_id: &str) -> String {
    let digits: String = request_id.chars().take(SHOWN).collect::<String>().to_ascii_uppercase();
    match digits.split_at_checked(SHOWN / 2) {
        Some((first, second)) if !second.is_empty() => format!("{first}-{second}"),
        _ => digits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9f86d081884c7d659a2feaa0c55ad015";

    #[test]
    fn what_a_page_shows_finds_its_request_and_no_other() {
        assert_eq!(shown(ID), "9F86-D081");
        for quoted in ["9F86-D081", "9f86d081", " 9f86-D081 ", ID, &shown(ID)] {
            assert!(Reference::parse(quoted).expect("a reference").is_of(ID), "{quoted}");
        }
        assert!(!Reference::parse("9F86-D082").expect("a reference").is_of(ID));
        for bad in ["", "9F86", "9F86-D08", "9F86-D08G", "9f86d081884c7d659a2feaa0c55ad0150"] {
            assert_eq!(Reference::parse(bad), Err(NoReference), "{bad}");
        }
    }
}
