//! Signatures as Standard Webhooks has them (v1): HMAC-SHA256 over id, time and body. With several secrets
//! there are several signatures, and a receiver takes a message by any of them.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

/// How a secret begins, as Standard Webhooks writes it.
const PREFIX: &str = "whsec_";
/// Bytes of a secret that the specification allows.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The most secrets of a file: the present one, and another while it is replaced.
const MOST: usize = 2;

/// With or without the `=` at the end.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is wrong with a webhook's secret. The texts never repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// There is none, or too many.
    #[error(
        "must have one or two lines, each `whsec_` and 24 to 64 random bytes in base64: \
         `echo \"whsec_$(openssl rand -base64 32)\"` makes one"
    )]
    Lines,
    /// A line is no secret.
    #[error(
        "has a line {0} that is not `whsec_` and 24 to 64 random bytes in base64: \
         `echo \"whsec_$(openssl rand -base64 32)\"` makes one"
    )]
    Line(usize),
}

/// The secrets that sign for one webhook, the newest first. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets(Vec<Zeroizing<Vec<u8>>>);

/// Without the secrets.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Reads a file's content.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(content: &[u8]) -> Result<Self, BadSecret> {
        let text = std::str::from_utf8(content).map_err(|_| BadSecret::Lines)?;
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let read = |(number, line): (usize, &str)| {
            let bytes =
                line.strip_prefix(PREFIX).and_then(|rest| LENIENT.decode(rest).ok().map(Zeroizing::new));
            bytes.filter(|bytes| BYTES.contains(&bytes.len())).ok_or(BadSecret::Line(number))
        };
        let secrets = lines.map(read).collect::<Result<Vec<_>, BadSecret>>()?;
        if secrets.is_empty() || secrets.len() > MOST { Err(BadSecret::Lines) } else { Ok(Secrets(secrets)) }
    }

    /// These, and behind them those of `before` that are not among these.
    #[must_use]
    pub fn and_before(&self, before: &Secrets) -> Self {
        let others = before.0.iter().filter(|one| !self.0.contains(one));
        Secrets(self.0.iter().chain(others).cloned().collect())
    }

    /// The value of `webhook-signature`, at `seconds` since the Unix epoch.
    pub fn sign(&self, id: &str, seconds: i64, body: &str) -> String {
        let signed = format!("{id}.{seconds}.{body}");
        let one = |secret: &Zeroizing<Vec<u8>>| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            format!("v1,{}", STANDARD.encode(hmac::sign(&key, signed.as_bytes())))
        };
        self.0.iter().map(one).collect::<Vec<String>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_specification_s_example_is_signed_as_it_says() {
        let secrets = Secrets::parse(SECRET.as_bytes()).expect("a secret");
        let signature =
            secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_sign_while_one_is_replaced() {
        let other = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let both = Secrets::parse(format!("# new\n{other}\n\n{SECRET}\r\n").as_bytes()).expect("two");
        let (one, two) = (Secrets::parse(other.as_bytes()), Secrets::parse(SECRET.as_bytes()));
        let (one, two) = (one.expect("one"), two.expect("another"));
        let expected = format!("{} {}", one.sign("i", 1, "b"), two.sign("i", 1, "b"));
        assert_eq!(both.sign("i", 1, "b"), expected);
        assert_eq!(one.and_before(&two).sign("i", 1, "b"), expected);
        assert_eq!(two.and_before(&two), two, "the same content is no other secret");
        assert_eq!(format!("{both:?}"), "Secrets(2)");
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_repeated() {
        for (content, expected) in [
            ("", BadSecret::Lines),
            ("# nothing\n", BadSecret::Lines),
            ("canary", BadSecret::Line(1)),
            ("whsec_", BadSecret::Line(1)),
            ("whsec_Y2FuYXJ5", BadSecret::Line(1)),
            ("\nwhsec_canary!", BadSecret::Line(2)),
        ] {
            let bad = Secrets::parse(content.as_bytes()).expect_err(content);
            assert_eq!(bad, expected, "{content}");
            assert!(!bad.to_string().contains("canary"));
        }
        let three = format!("{SECRET}\n{SECRET}\n{SECRET}");
        assert_eq!(Secrets::parse(three.as_bytes()), Err(BadSecret::Lines));
        assert_eq!(Secrets::parse(&[0xff]), Err(BadSecret::Lines));
    }
}
