//! Recognition of files that should have been text, by their first bytes and by the state of their lines,
//! with a command that corrects each. No command leaves a copy of a secret behind or changes a file's owner.

use std::fmt;
use std::path::{Path, PathBuf};

use super::fix::FIX;

/// What a file is in place of the expected text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Every second byte is zero, or the file begins with that encoding's mark.
    Utf16,
    /// A PKCS#12 container.
    Pkcs12,
    /// A certificate in DER, without the text form of PEM.
    DerCertificate,
    /// A private key in DER, without the text form of PEM.
    DerKey,
    /// UTF-8 with a byte order mark.
    ByteOrderMark,
    /// PEM with `\n` as two characters.
    LiteralLineEnds,
    /// PEM with several blocks on one line.
    BlocksTogether,
    /// PEM in a single line.
    OneLine,
    /// PEM with blanks before its lines.
    Indented,
}

/// A file's shape, and the command that corrects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// Its shape.
    pub shape: Shape,
    file: PathBuf,
}

impl Shape {
    /// Recognizes a shape by the file's first bytes.
    pub fn of_binary(content: &[u8]) -> Option<Self> {
        let is_wide =
            |even: usize, odd: usize| even.min(odd) == 0 && even.max(odd) >= (content.len() / 2).min(8);
        let zeros =
            |from: usize| content.iter().skip(from).step_by(2).take(8).filter(|byte| **byte == 0).count();
        match content {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(Shape::Utf16),
            // Without a mark: a zero beside each of the first characters.
            [_, _, _, _, ..] if is_wide(zeros(0), zeros(1)) => Some(Shape::Utf16),
            [0x30, 0x80..=0x84, ..] => Some(match first_inside(content) {
                [0x30, ..] => Shape::DerCertificate,
                [0x02, 0x01, 0x03, ..] => Shape::Pkcs12,
                _ => Shape::DerKey,
            }),
            _ => None,
        }
    }

    /// Recognizes the damage of a PEM text that cannot be parsed.
    fn of_pem(content: &[u8]) -> Option<Self> {
        if let Some(shape) = Shape::of_binary(content) {
            return Some(shape);
        }
        if content.starts_with(b"\xef\xbb\xbf") {
            return Some(Shape::ByteOrderMark);
        }
        let text = std::str::from_utf8(content).ok()?;
        let begins = text.find("-----BEGIN ")?;
        let in_lines = |mark: &str| text.lines().any(|line| line.trim_end().ends_with(mark));
        if text.contains("\\n") {
            Some(Shape::LiteralLineEnds)
        } else if text.contains("----------BEGIN ") && in_lines("-----") && text.lines().count() > 2 {
            Some(Shape::BlocksTogether)
        } else if text[begins..].lines().next().is_some_and(|line| line.contains("-----END ")) {
            Some(Shape::OneLine)
        } else if text.lines().any(|line| line.starts_with([' ', '\t']) && line.contains("-----BEGIN ")) {
            Some(Shape::Indented)
        } else {
            None
        }
    }
}

impl Misshapen {
    /// Recognizes a file's shape, whatever text was expected.
    pub fn binary(content: &[u8], file: &Path) -> Option<Self> {
        Some(Misshapen { shape: Shape::of_binary(content)?, file: file.to_owned() })
    }

    /// Recognizes the damage of a PEM file that cannot be parsed.
    pub fn pem(content: &[u8], file: &Path) -> Option<Self> {
        Some(Misshapen { shape: Shape::of_pem(content)?, file: file.to_owned() })
    }

    /// Returns the shell command that corrects the file in place.
    pub fn command(&self) -> String {
        let file = format!("'{}'", self.file.display().to_string().replace('\'', "'\\''"));
        let again = |command: &str| format!("text=$({command}) && printf '%s\\n' \"$text\" > {file}");
        let edit = |script: &str| format!("sed -i -E '{script}' {file}");
        match self.shape {
            Shape::Utf16 => again(&format!("iconv -f UTF-16 -t UTF-8 {file}")),
            Shape::Pkcs12 => again(&format!("openssl pkcs12 -nodes -in {file}")),
            Shape::DerCertificate => again(&format!("openssl x509 -inform DER -in {file}")),
            Shape::DerKey => again(&format!("openssl pkey -inform DER -in {file}")),
            Shape::ByteOrderMark => edit(r"1s/^\xEF\xBB\xBF//"),
            Shape::LiteralLineEnds => edit(r"s/(\\r)?\\n/\n/g"),
            Shape::BlocksTogether => edit(r"s/-----(-----BEGIN )/-----\n\1/g"),
            Shape::OneLine => edit(concat!(
                r"s/[ \t]*-----BEGIN ([A-Z0-9 ]+)-----[ \t]*/\n-----BEGIN_\1-----\n/g; ",
                r"s/[ \t]*-----END ([A-Z0-9 ]+)-----[ \t]*/\n-----END_\1-----\n/g; ",
                r"s/(-----(BEGIN|END))_/\1 /g",
            )),
            Shape::Indented => edit(r"s/^[ \t]+//"),
        }
    }
}

impl fmt::Display for Misshapen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.shape {
            Shape::Utf16 => "is UTF-16, as Windows PowerShell writes text",
            Shape::Pkcs12 => "is a PKCS#12 container (.pfx, .p12)",
            Shape::DerCertificate => "is a certificate in DER",
            Shape::DerKey => "is a private key in DER",
            Shape::ByteOrderMark => "begins with a byte order mark, as Windows' editors write it",
            Shape::LiteralLineEnds => "has `\\n` as two characters where lines should end",
            Shape::BlocksTogether => "has no line end between two blocks of PEM",
            Shape::OneLine => "is PEM that lost its line ends",
            Shape::Indented => "is PEM with blanks before its lines",
        };
        write!(f, "{what}{FIX}{}", self.command())
    }
}

/// Returns the content of a DER sequence, after its length.
fn first_inside(content: &[u8]) -> &[u8] {
    let length_bytes = usize::from(content.get(1).copied().unwrap_or(0x80) & 0x7f);
    content.get(2 + length_bytes..).unwrap_or_default()
}
