//! The programs that `--for` knows: which form each one reads, and the longest token that it takes. Pure.
//!
//! `make mail` measures the limits of mbsync, msmtp, neomutt and getmail with the programs themselves
//! (`tests/it/mail/limits.rs`). The others were measured by hand. `docs/mail-programs.md` has a table.

use std::fmt;

use super::sasl::{Login, Mechanism};

/// A program that logs in to a mail server with a token, or the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Program {
    /// isync's mbsync, with Cyrus SASL and a plugin for XOAUTH2
    #[value(alias = "isync")]
    Mbsync,
    Msmtp,
    Neomutt,
    #[value(alias = "getmail6")]
    Getmail,
    Aerc,
    Himalaya,
    #[value(alias = "offlineimap3")]
    Offlineimap,
    /// Dovecot as the server that is logged in to
    Dovecot,
}

/// What stands on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The token itself: the program makes the response from it.
    Token,
    /// The initial response.
    InitialResponse,
}

/// Where a program's limit is.
enum Limit {
    /// None: 120,000 bytes went through.
    None,
    /// The token, in bytes.
    Token(usize),
    /// The characters of a line that holds `before` and then the response in Base64.
    Line { longest: usize, before: &'static str },
}

/// Error: the program does not speak the mechanism.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{program} does not speak {}", mechanism.name())]
pub(super) struct NotSpoken {
    program: Program,
    mechanism: Mechanism,
}

/// Error: the program would cut or refuse the token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{program} takes at most {longest} bytes of token with {} for {user}, and this token has {length}",
    mechanism.name()
)]
pub(super) struct TooLong {
    program: Program,
    mechanism: Mechanism,
    user: String,
    longest: usize,
    length: usize,
}

impl Program {
    /// Returns what the program reads.
    pub(super) fn form(self) -> Form {
        match self {
            Program::Dovecot => Form::InitialResponse,
            Program::Mbsync
            | Program::Msmtp
            | Program::Neomutt
            | Program::Getmail
            | Program::Aerc
            | Program::Himalaya
            | Program::Offlineimap => Form::Token,
        }
    }

    /// Fails if the program does not speak the mechanism. Each one speaks XOAUTH2.
    pub(super) fn speaks(self, mechanism: Mechanism) -> Result<(), NotSpoken> {
        let spoken = match self {
            Program::Mbsync | Program::Getmail | Program::Offlineimap => mechanism == Mechanism::Xoauth2,
            Program::Msmtp | Program::Neomutt | Program::Aerc | Program::Himalaya | Program::Dovecot => true,
        };
        if spoken { Ok(()) } else { Err(NotSpoken { program: self, mechanism }) }
    }

    /// Returns true if host and port, which stand in the response, decide how much room the token has.
    pub(super) fn counts_host_and_port(self, mechanism: Mechanism) -> bool {
        mechanism == Mechanism::Oauthbearer && matches!(self, Program::Msmtp)
    }

    /// Fails if the token is longer than the program takes.
    pub(super) fn check(self, mechanism: Mechanism, login: &Login, token: &str) -> Result<(), TooLong> {
        let length = token.len();
        match self.longest_token(mechanism, login) {
            Some(longest) if length > longest => Err(TooLong {
                program: self,
                mechanism,
                user: login.user.as_str().to_owned(),
                longest,
                length,
            }),
            _ => Ok(()),
        }
    }

    /// Returns the length in bytes of the longest token that the program takes; `None` if none is known.
    fn longest_token(self, mechanism: Mechanism, login: &Login) -> Option<usize> {
        match self.limit(mechanism) {
            Limit::None => None,
            Limit::Token(longest) => Some(longest),
            Limit::Line { longest, before } => {
                // Base64 writes three bytes, or what is left of them, as four characters.
                let bytes = longest.saturating_sub(before.len()) / 4 * 3;
                Some(bytes.saturating_sub(mechanism.length_without_token(login)))
            }
        }
    }

    fn limit(self, mechanism: Mechanism) -> Limit {
        match (self, mechanism) {
            // It reads 8,191 bytes, sends those, and drops the rest without a word.
            (Program::Mbsync, _) => Limit::Token(8191),
            // "Cannot send command because it is longer than 4094 characters". XOAUTH2's response has a line
            // of its own.
            (Program::Msmtp, Mechanism::Xoauth2) => Limit::Line { longest: 4094, before: "" },
            (Program::Msmtp, Mechanism::Oauthbearer) => {
                Limit::Line { longest: 4094, before: "AUTH OAUTHBEARER " }
            }
            // "OAUTH token is too big".
            (Program::Neomutt, Mechanism::Xoauth2) => Limit::Token(4094),
            (Program::Neomutt, Mechanism::Oauthbearer) => Limit::Token(510),
            // "Authentication response too large".
            (Program::Dovecot, _) => Limit::Line { longest: 8191, before: "" },
            (Program::Getmail | Program::Aerc | Program::Himalaya | Program::Offlineimap, _) => Limit::None,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Mbsync => "mbsync",
            Program::Msmtp => "msmtp",
            Program::Neomutt => "neomutt",
            Program::Getmail => "getmail",
            Program::Aerc => "aerc",
            Program::Himalaya => "himalaya",
            Program::Offlineimap => "offlineimap",
            Program::Dovecot => "dovecot",
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::super::sasl::tests::login;
    use super::*;

    /// Measured with a user of 14 bytes, host 127.0.0.1 and a port of five digits.
    #[test]
    fn the_longest_tokens_that_were_measured() {
        let login = login("me@contoso.com", Some("127.0.0.1"), Some(12_345));
        for (program, xoauth2, oauthbearer) in [
            (Program::Mbsync, Some(8191), None),
            (Program::Msmtp, Some(3035), Some(2997)),
            (Program::Neomutt, Some(4094), Some(510)),
            (Program::Getmail, None, None),
            (Program::Aerc, None, None),
            (Program::Himalaya, None, None),
            (Program::Offlineimap, None, None),
            (Program::Dovecot, Some(6107), Some(6081)),
        ] {
            for (mechanism, longest) in [(Mechanism::Xoauth2, xoauth2), (Mechanism::Oauthbearer, oauthbearer)]
            {
                if program.speaks(mechanism).is_err() {
                    assert_eq!((mechanism, longest), (Mechanism::Oauthbearer, None), "{program}");
                    continue;
                }
                let check = |length| program.check(mechanism, &login, &"t".repeat(length)).is_ok();
                match longest {
                    Some(longest) => {
                        assert!(check(longest) && !check(longest + 1), "{program} {mechanism:?}")
                    }
                    None => assert!(check(120_000), "{program} {mechanism:?}"),
                }
            }
        }
    }

    /// What the formula says, counted on a written response.
    #[test]
    fn a_line_holds_the_longest_token_and_no_longer_one() {
        for user in ["a", "me@contoso.com", "a=b,c@contoso.com"] {
            for port in [None, Some(25), Some(587), Some(12_345)] {
                let login = login(user, port.map(|_| "smtp.office365.com"), port);
                for (mechanism, before) in
                    [(Mechanism::Xoauth2, ""), (Mechanism::Oauthbearer, "AUTH OAUTHBEARER ")]
                {
                    let longest = Program::Msmtp.longest_token(mechanism, &login).expect("a limit");
                    let line = |length: usize| {
                        before.len() + mechanism.initial_response(&login, &"t".repeat(length)).len()
                    };
                    assert!(
                        line(longest) <= 4094 && line(longest + 1) > 4094,
                        "{user} {port:?} {mechanism:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_refusal_names_program_mechanism_and_both_lengths() {
        let login = login("me@contoso.com", None, None);
        let refused = Program::Msmtp.check(Mechanism::Xoauth2, &login, &"t".repeat(3036));
        assert_eq!(
            refused.expect_err("too long").to_string(),
            "msmtp takes at most 3035 bytes of token with XOAUTH2 for me@contoso.com, and this token has 3036"
        );
        let refused = Program::Mbsync.speaks(Mechanism::Oauthbearer);
        assert_eq!(refused.expect_err("not spoken").to_string(), "mbsync does not speak OAUTHBEARER");
    }

    #[test]
    fn a_program_is_named_as_it_is_on_the_command_line() {
        for program in Program::value_variants() {
            let value = program.to_possible_value().expect("a value");
            assert_eq!(value.get_name(), program.to_string());
        }
        for (alias, program) in [
            ("isync", Program::Mbsync),
            ("getmail6", Program::Getmail),
            ("offlineimap3", Program::Offlineimap),
        ] {
            assert_eq!(Program::from_str(alias, false), Ok(program));
        }
    }
}
