//! Labels of a connection: a few short words of the company's own, for lists and searches. No right depends
//! on them.

/// Most labels of a connection.
pub const MOST: usize = 8;
/// Longest label.
pub const LONGEST: usize = 64;

/// Error: these are no labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be at most {MOST} words of 1 to {LONGEST} of `A-Z a-z 0-9 . _ : = @ / -`")]
pub struct NoLabels;

/// Checks labels. A repeated one counts once.
///
/// # Errors
/// They are too many, or one is no word.
pub fn checked(labels: Vec<String>) -> Result<Vec<String>, NoLabels> {
    let is_word = |label: &String| {
        let of_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._:=@/-".contains(&byte);
        (1..=LONGEST).contains(&label.len()) && label.bytes().all(of_word)
    };
    if labels.len() > MOST || !labels.iter().all(is_word) {
        return Err(NoLabels);
    }
    let mut kept: Vec<String> = Vec::new();
    for label in labels {
        if !kept.contains(&label) {
            kept.push(label);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_few_and_short_words() {
        let words = |all: &[&str]| checked(all.iter().map(|one| (*one).to_owned()).collect());
        assert_eq!(words(&["team=sales", "eu", "eu"]), Ok(vec!["team=sales".to_owned(), "eu".to_owned()]));
        assert_eq!(words(&[]), Ok(vec![]));
        for bad in [&[""][..], &["a b"], &["ä"], &["a\n"], &[&"x".repeat(65)], &["x"; 9]] {
            assert_eq!(words(bad), Err(NoLabels), "{bad:?}");
        }
    }
}
