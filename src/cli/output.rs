//! The commands' only output: data to standard output, words to standard error, and answers to questions from
//! standard input.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};

use serde::Serialize;
use zeroize::Zeroizing;

use super::{Exit, Failure, paint};

/// Longest answer to a question.
const LONGEST_ANSWER: u64 = 1024;

/// Standard input, output and error, or a test's replacements.
pub struct Output {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    input: Option<Box<dyn BufRead + Send>>,
    /// True if standard error is a terminal.
    watched: bool,
    /// True if standard output takes colours.
    coloured: bool,
    /// True if the last thing on standard error was a progress dot.
    dotted: bool,
    /// True for the process's own streams.
    is_system: bool,
}

impl Output {
    /// Uses the process's own streams.
    pub fn system(env: &BTreeMap<String, String>) -> Self {
        let output = Output::new(
            Box::new(io::stdout()),
            Box::new(io::stderr()),
            Box::new(BufReader::new(io::stdin())),
            io::stderr().is_terminal(),
        );
        Output { coloured: paint::is_wanted(io::stdout().is_terminal(), env), is_system: true, ..output }
    }

    /// Uses other streams, for tests.
    pub fn new(
        out: Box<dyn Write>,
        err: Box<dyn Write>,
        input: Box<dyn BufRead + Send>,
        watched: bool,
    ) -> Self {
        Output { out, err, input: Some(input), watched, coloured: false, dotted: false, is_system: false }
    }

    /// Writes lines of data. If the reader has gone away, the command ends.
    pub(super) fn data(&mut self, text: &str) -> Result<(), Failure> {
        self.end_dots();
        // In one write: a reader that is cut off has no part of a line.
        let text = printable(text, true) + "\n";
        self.write(text.as_bytes())
    }

    /// Writes data for a person: the words that say how something stands may have colours.
    pub(super) fn report(&mut self, text: &str) -> Result<(), Failure> {
        if !self.coloured {
            return self.data(text);
        }
        self.end_dots();
        let text = paint::painted(&printable(text, true)) + "\n";
        self.write(text.as_bytes())
    }

    /// Writes data in place of the terminal's present content.
    pub(super) fn screen(&mut self, text: &str) -> Result<(), Failure> {
        // Our own sequence, so it is not escaped: it clears the screen and moves to its beginning (ECMA-48).
        let _ = write!(self.out, "\u{1b}[2J\u{1b}[H");
        self.report(text)
    }

    /// Writes data for programs.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
        self.data(&printable_json(&text))
    }

    /// Writes what this program made itself, byte for byte: nothing in it comes from elsewhere.
    pub(super) fn generated(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.end_dots();
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::silent(Exit::Failed),
            _ => Failure::failed(format!("cannot write to standard output: {error}")),
        })
    }

    /// Writes words for the person at the terminal; a failure to write them is ignored.
    pub(super) fn say(&mut self, text: &str) {
        self.end_dots();
        let _ = writeln!(self.err, "{}", printable(text, true)).and_then(|()| self.err.flush());
    }

    /// Shows a sign of life while waiting, if standard error is a terminal.
    pub(super) fn dot(&mut self) {
        if self.watched {
            self.dotted = true;
            let _ = write!(self.err, ".").and_then(|()| self.err.flush());
        }
    }

    /// Shows how far a long command is, in place of what it showed before, if standard error is a terminal.
    pub(super) fn progress(&mut self, text: &str) {
        if self.watched {
            self.dotted = true;
            // Our own sequence, so it is not escaped: it clears the rest of the line (ECMA-48).
            let text = printable(text, false);
            let _ = write!(self.err, "\r{text}\u{1b}[K").and_then(|()| self.err.flush());
        }
    }

    /// Takes standard input, to be read as data. There is nothing in it the second time.
    pub(super) fn take_input(&mut self) -> Box<dyn Read> {
        match self.input.take() {
            Some(input) => Box::new(input),
            None => Box::new(io::empty()),
        }
    }

    fn end_dots(&mut self) {
        if std::mem::take(&mut self.dotted) {
            let _ = writeln!(self.err);
        }
    }

    /// Reads all of standard input, and at most one byte more than `most`.
    pub(super) fn secret_input(&mut self, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        // It never grows, so that no copy is left in freed memory.
        let mut content = Zeroizing::new(vec![0; most + 1]);
        let mut length = 0;
        if let Some(input) = &mut self.input {
            while length < content.len() {
                match input.read(&mut content[length..])? {
                    0 => break,
                    read => length += read,
                }
            }
        }
        content.truncate(length);
        Ok(content)
    }

    /// Returns true for the process's own streams.
    pub(super) fn is_system(&self) -> bool {
        self.is_system
    }

    /// Asks a question. Anything but yes, including no answer, means no.
    pub(super) async fn ask(&mut self, question: &str) -> bool {
        self.end_dots();
        let _ = write!(self.err, "{} [y/N] ", printable(question, true)).and_then(|()| self.err.flush());
        // Read on a thread of its own, so that Ctrl-C still works. After an interrupted question no other can
        // be asked.
        let Some(mut input) = self.input.take() else { return false };
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            let read = input.by_ref().take(LONGEST_ANSWER).read_line(&mut line);
            (read.map(|_| line), input)
        });
        let Ok((line, input)) = read.await else { return false };
        self.input = Some(input);
        let line = line.unwrap_or_default();
        if !line.ends_with('\n') {
            let _ = writeln!(self.err);
        }
        matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }
}

/// Makes foreign text safe to show within a line: it escapes what could move a cursor, change colours or
/// reorder a line.
pub(super) fn shown(text: &str) -> String {
    printable(text, false)
}

fn printable(text: &str, keep_lines: bool) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if misleads(c) && !(keep_lines && c == '\n') {
            clean.extend(c.escape_unicode());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Escapes everything in JSON strings that a terminal would act on; the meaning stays the same.
fn printable_json(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if misleads(c) && c != '\n' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                clean.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Returns true for control characters, and for Unicode characters that are invisible or change the writing
/// direction.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Formats rows below their headings, aligned. Cells are made safe to show.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut cells: Vec<Vec<String>> = vec![headings.iter().map(|&heading| heading.to_owned()).collect()];
    cells.extend(rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()));
    let width = |column: usize| {
        cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let padded: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Captured;

    #[test]
    fn nothing_from_the_wire_moves_a_terminal() {
        let nasty = "a\x1b[2Jb\r\nc\u{9b}31m\u{202e}d\u{7f}";
        let clean = shown(nasty);
        assert!(clean.chars().all(|c| !misleads(c)), "{clean}");
        assert!(clean.starts_with("a\\u{1b}[2Jb\\u{d}\\u{a}c"), "{clean}");
        assert_eq!(shown("Zoë <zoë@contoso.com>"), "Zoë <zoë@contoso.com>");

        let (mut output, captured) = Captured::output("");
        output.say(nasty);
        output.data(nasty).expect("written");
        let all = captured.out() + &captured.err();
        assert!(all.chars().all(|c| c == '\n' || !misleads(c)), "{all:?}");

        let (mut output, captured) = Captured::output("");
        output.json(&serde_json::json!([nasty])).expect("written");
        let text = captured.out();
        assert!(text.chars().all(|c| c == '\n' || !misleads(c)), "{text:?}");
        let json: serde_json::Value = serde_json::from_str(&text).expect("still JSON");
        assert_eq!(json[0], nasty, "and the same JSON");
    }

    #[test]
    fn tables_line_up() {
        let rows = vec![
            vec!["a".into(), "needs_reauthorization".into(), String::new()],
            vec!["zoë-with-a-name".into(), "active".into(), "x\n".into()],
        ];
        assert_eq!(
            table(&["NAME", "STATUS", "WHY"], &rows),
            "NAME             STATUS                 WHY\n\
             a                needs_reauthorization\n\
             zoë-with-a-name  active                 x\\u{a}"
        );
    }

    #[test]
    fn only_yes_is_yes() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for (input, expected) in [
            ("y\n", true),
            ("YES\n", true),
            ("y", true),
            ("\n", false),
            ("", false),
            ("no\n", false),
            ("yup\n", false),
        ] {
            let (mut output, captured) = Captured::output(input);
            assert_eq!(runtime.block_on(output.ask("Sure?")), expected, "{input:?}");
            assert!(captured.err().starts_with("Sure? [y/N] "));
        }
    }
}
