//! Mistakes in a configuration: what is wrong, where, and what was probably meant.

use std::fmt;
use std::path::{Path, PathBuf};

/// Origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Byte offset in the file.
    File(usize),
    /// Not written; the byte offset of the table that should have it.
    Absent(usize),
    /// An environment variable.
    Variable(String),
    /// Not set; the environment variable that made the table that should have it.
    AbsentBeside(String),
}

impl Place {
    /// Returns the position for a value that is missing there.
    pub(super) fn absent(&self) -> Self {
        match self {
            Self::File(offset) | Self::Absent(offset) => Self::Absent(*offset),
            Self::Variable(name) | Self::AbsentBeside(name) => Self::AbsentBeside(name.clone()),
        }
    }

    /// Orders by position in the file, then by environment variable.
    pub(super) fn sort_key(&self) -> (bool, usize, &str) {
        match self {
            Self::File(offset) | Self::Absent(offset) => (false, *offset, ""),
            Self::Variable(name) | Self::AbsentBeside(name) => (true, 0, name),
        }
    }

    fn offset(&self) -> Option<usize> {
        match self {
            Self::File(offset) | Self::Absent(offset) => Some(*offset),
            Self::Variable(_) | Self::AbsentBeside(_) => None,
        }
    }
}

/// A problem before its position is converted into a line.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) place: Place,
    pub(super) key: String,
    pub(super) problem: String,
    pub(super) nearest: Option<String>,
    pub(super) topic: Topic,
}

impl Finding {
    pub(super) fn locate(self, file: &Path, text: &str) -> Mistake {
        let (line, column) = self.place.offset().map_or((0, 0), |offset| line_and_column(text, offset));
        let variable = match self.place {
            Place::Variable(name) | Place::AbsentBeside(name) => Some(name),
            Place::File(_) | Place::Absent(_) => None,
        };
        Mistake {
            file: file.to_owned(),
            variable,
            line,
            column,
            key: self.key,
            problem: self.problem,
            nearest: self.nearest,
            topic: self.topic,
        }
    }
}

/// One mistake: its position, its key, the problem, and what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The configuration file.
    pub file: PathBuf,
    /// The environment variable that the value came from, if any; line and column are then 0.
    pub variable: Option<String>,
    /// Line, from 1; 0 if the file could not be read at all.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Dotted path such as `apps.outlook.credentials[0].kind`; empty for a mistake of syntax.
    pub key: String,
    /// What is wrong, in words.
    pub problem: String,
    /// The nearest known name, if one is near.
    pub nearest: Option<String>,
    /// What it is about, for who says the same in other words.
    pub topic: Topic,
}

/// What a mistake or a warning is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Topic {
    /// Nothing in particular.
    #[default]
    Other,
    /// A client secret that is a secret's ID.
    SecretId,
    /// The end of a secret or a certificate.
    Expiry,
    /// A secret or a certificate whose end is over.
    Expired,
    /// An address that is http and must be https.
    NotHttps,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.variable, self.line) {
            (Some(variable), _) => write!(f, "environment {}: ", Printable(variable))?,
            (None, 0) => write!(f, "{}: ", self.file.display())?,
            (None, line) => write!(f, "{}:{line}:{}: ", self.file.display(), self.column)?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", Printable(&self.key))?;
        }
        Printable(&self.problem).fmt(f)?;
        if let Some(nearest) = &self.nearest {
            write!(f, " (did you mean `{nearest}`?)")?;
        }
        Ok(())
    }
}

/// Text without the control characters that a quoted name or a variable's name could send to a terminal or a
/// log.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character.is_control() {
                true => write!(f, "{}", character.escape_unicode())?,
                false => fmt::Write::write_char(f, character)?,
            }
        }
        Ok(())
    }
}

/// All mistakes of a configuration, in the order of the file. `Display` writes one line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// Never empty.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Returns the line and column of a byte offset, both from 1, the column in characters.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the fuzz target `environment`.
    #[test]
    fn a_mistake_is_one_line_whatever_its_names_hold() {
        let mistake = Mistake {
            file: PathBuf::from("t.toml"),
            variable: Some("TOKENWARD__A\u{1b}[31m".to_owned()),
            line: 0,
            column: 0,
            key: "a\nb".to_owned(),
            problem: "unknown key".to_owned(),
            nearest: None,
            topic: Topic::default(),
        };
        assert_eq!(mistake.to_string(), "environment TOKENWARD__A\\u{1b}[31m: a\\u{a}b: unknown key");
    }

    #[test]
    fn lines_and_columns() {
        let text = "a = 1\nbü = 2\n";
        assert_eq!(line_and_column(text, 0), (1, 1));
        assert_eq!(line_and_column(text, 4), (1, 5));
        assert_eq!(line_and_column(text, 6), (2, 1));
        assert_eq!(line_and_column(text, 9), (2, 3));
        assert_eq!(line_and_column(text, 999), (3, 1));
    }
}
