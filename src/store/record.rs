//! How a connection is written down: one encoding in both stores.
//!
//! ```text
//! offset  bytes
//!      0      2  "TW"
//!      2      1  format: 2
//!      3     16  sign-in: its number, big-endian, and its nonce
//!     19      8  generation, big-endian
//!     27     16  nonce
//!     43     12  the lengths of profile, tokens and grant, big-endian, 4 bytes each
//!     55    ...  profile, tokens, grant
//! ```
//! The revision stands at a fixed place so that it can be read, and compared inside Redis, without the rest;
//! as bytes and never as a number, because Lua's numbers lose whole ones above 2^53. Nothing here is
//! authenticated. The fields were sealed and bound to their connection before, and a record that was tampered
//! with does not open.

use super::{Revision, StoreError, StoredConnection, StoredProfile};
use crate::domain::connection::SignIn;

/// The first bytes of every record.
const MAGIC: [u8; 2] = *b"TW";
/// The only format. Another one is an error and never guessed at: an older daemon must not rewrite a record
/// of a newer one. (Format 1, without the sign-in, was in no release.)
const FORMAT: u8 = 2;
/// The first bytes of every record of this format.
pub const HEAD: [u8; 3] = [MAGIC[0], MAGIC[1], FORMAT];
/// Where the revision begins.
pub const REVISION_START: usize = 3;
/// The end of the revision. A reader of the revision needs this much of a record.
pub const REVISION_END: usize = REVISION_START + SIGN_IN + 24;
/// How long a sign-in is: a revision begins with it.
const SIGN_IN: usize = 16;
const HEADER: usize = REVISION_END + 12;
/// The most bytes of one sealed field. A profile is a few KiB and tokens of ten resources some 50 KiB. A
/// larger field is a mistake, and would stall everyone behind it in the store.
pub const MAX_FIELD: usize = 1024 * 1024;
/// The most bytes that a record may have.
pub const LARGEST: usize = HEADER + 3 * MAX_FIELD;

/// A revision as it is stored and compared: sign-in, generation, big-endian, and nonce.
pub fn revision_bytes(revision: &Revision) -> [u8; REVISION_END - REVISION_START] {
    let mut bytes = [0; REVISION_END - REVISION_START];
    bytes[..SIGN_IN].copy_from_slice(&sign_in_bytes(&revision.sign_in));
    bytes[SIGN_IN..SIGN_IN + 8].copy_from_slice(&revision.generation.to_be_bytes());
    bytes[SIGN_IN + 8..].copy_from_slice(&revision.nonce);
    bytes
}

/// A sign-in as it is stored and compared.
pub fn sign_in_bytes(sign_in: &SignIn) -> [u8; SIGN_IN] {
    let mut bytes = [0; SIGN_IN];
    bytes[..8].copy_from_slice(&sign_in.number.to_be_bytes());
    bytes[8..].copy_from_slice(&sign_in.nonce);
    bytes
}

/// Writes a connection down. Refused when a field is larger than [`MAX_FIELD`].
pub fn encode(doing: &'static str, connection: &StoredConnection) -> Result<Vec<u8>, StoreError> {
    let fields = [&connection.profile, &connection.tokens, &connection.grant];
    let mut record = Vec::with_capacity(HEADER + fields.iter().map(|field| field.len()).sum::<usize>());
    record.extend_from_slice(&MAGIC);
    record.push(FORMAT);
    record.extend_from_slice(&revision_bytes(&connection.revision));
    for field in fields {
        let length = u32::try_from(field.len()).ok().filter(|_| field.len() <= MAX_FIELD);
        let Some(length) = length else {
            let cause = format!("a field of {} bytes is more than the {MAX_FIELD} allowed", field.len());
            return Err(StoreError::Corrupt { doing, cause });
        };
        record.extend_from_slice(&length.to_be_bytes());
    }
    for field in fields {
        record.extend_from_slice(field);
    }
    Ok(record)
}

/// Reads a record, to the last byte.
pub fn decode(doing: &'static str, record: &[u8]) -> Result<StoredConnection, StoreError> {
    let revision = decode_revision(doing, record)?;
    let corrupt = |cause: &str| StoreError::corrupt(doing, cause);
    let mut lengths = [0usize; 3];
    let header = record.get(REVISION_END..HEADER).ok_or_else(|| corrupt("it ends within its header"))?;
    for (length, bytes) in lengths.iter_mut().zip(header.chunks_exact(4)) {
        let number = bytes.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        *length = usize::try_from(number)
            .ok()
            .filter(|length| *length <= MAX_FIELD)
            .ok_or_else(|| corrupt("a field's length is beyond what a field may have"))?;
    }
    let mut rest = &record[HEADER..];
    let mut field = |length: usize| {
        let (field, after) =
            rest.split_at_checked(length).ok_or_else(|| corrupt("it ends within a field"))?;
        rest = after;
        Ok(field.to_vec())
    };
    let connection = StoredConnection {
        revision,
        profile: field(lengths[0])?,
        tokens: field(lengths[1])?,
        grant: field(lengths[2])?,
        notice: None,
    };
    if rest.is_empty() { Ok(connection) } else { Err(corrupt("it goes on after its last field")) }
}

/// What the first bytes of a record show of its profile.
#[derive(Debug, PartialEq, Eq)]
pub enum Beginning {
    /// All of it.
    Whole(StoredProfile),
    /// The profile needs this many bytes of the record.
    Cut(usize),
}

/// Reads the profile from the beginning of a record, of which `asked` bytes were asked for.
pub fn profile(doing: &'static str, record: &[u8], asked: usize) -> Result<Beginning, StoreError> {
    let revision = decode_revision(doing, record)?;
    let corrupt = |cause: &str| StoreError::corrupt(doing, cause);
    let length = record.get(REVISION_END..HEADER).ok_or_else(|| corrupt("it ends within its header"))?;
    let length = length[..4].iter().fold(0usize, |number, byte| number << 8 | usize::from(*byte));
    if length > MAX_FIELD {
        return Err(corrupt("a field's length is beyond what a field may have"));
    }
    let reach = reach_of(length);
    match record.get(HEADER..reach) {
        Some(profile) => Ok(Beginning::Whole(StoredProfile { revision, profile: profile.to_vec() })),
        None if record.len() == asked => Ok(Beginning::Cut(reach)),
        None => Err(corrupt("it ends within a field")),
    }
}

/// Stands for the profile of a record that cannot be read: it opens for nobody, so a list reports it as
/// damaged and shows the others.
pub fn unreadable() -> StoredProfile {
    let sign_in = SignIn { number: 0, nonce: [0; 8] };
    StoredProfile { revision: Revision { sign_in, generation: 0, nonce: [0; 16] }, profile: Vec::new() }
}

/// How much of a record holds the first `length` sealed bytes of its profile.
pub const fn reach_of(length: usize) -> usize {
    HEADER + length
}

/// The beginning of the sealed profile, at most `length` bytes of it: `record` may end anywhere after it.
pub fn head<'r>(doing: &'static str, record: &'r [u8], length: usize) -> Result<&'r [u8], StoreError> {
    decode_revision(doing, record)?;
    let corrupt = || StoreError::corrupt(doing, "it ends within its first field");
    let profile = record.get(REVISION_END..REVISION_END + 4).ok_or_else(corrupt)?;
    let profile = profile.iter().fold(0usize, |number, byte| number << 8 | usize::from(*byte));
    record.get(HEADER..HEADER + profile.min(length)).ok_or_else(corrupt)
}

/// Reads only the revision: `record` may end anywhere after it.
pub fn decode_revision(doing: &'static str, record: &[u8]) -> Result<Revision, StoreError> {
    let head = record
        .get(..REVISION_END)
        .ok_or_else(|| StoreError::corrupt(doing, "it is shorter than a revision"))?;
    if head[..2] != MAGIC {
        return Err(StoreError::corrupt(doing, "it is not one of ours"));
    }
    if head[2] != FORMAT {
        let cause = format!("its format is {} and this version knows only {FORMAT}", head[2]);
        return Err(StoreError::Corrupt { doing, cause });
    }
    let number = |at: usize| head[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let (mut of_sign_in, mut nonce) = ([0; 8], [0; 16]);
    let generation = REVISION_START + SIGN_IN;
    of_sign_in.copy_from_slice(&head[REVISION_START + 8..generation]);
    nonce.copy_from_slice(&head[generation + 8..REVISION_END]);
    let sign_in = SignIn { number: number(REVISION_START), nonce: of_sign_in };
    Ok(Revision { sign_in, generation: number(generation), nonce })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> StoredConnection {
        StoredConnection {
            revision: Revision {
                sign_in: SignIn { number: 3, nonce: [9; 8] },
                generation: u64::MAX - 1,
                nonce: [7; 16],
            },
            profile: b"profile".to_vec(),
            tokens: Vec::new(),
            grant: vec![0xff; 300],
            notice: None,
        }
    }

    fn encoded() -> Vec<u8> {
        encode("testing", &connection()).expect("fits")
    }

    #[test]
    fn what_is_written_is_read() {
        let record = encoded();
        assert_eq!(decode("testing", &record).expect("whole"), connection());
        assert_eq!(
            decode_revision("testing", &record[..REVISION_END]).expect("whole"),
            connection().revision
        );
        assert_eq!(record[REVISION_START..REVISION_END], revision_bytes(&connection().revision));
    }

    #[test]
    fn the_profile_is_read_without_the_rest() {
        let record = encoded();
        let whole = Beginning::Whole(connection().into());
        let reach = reach_of(b"profile".len());
        for length in HEADER..=record.len() {
            let read = profile("testing", &record[..length], length).expect("the beginning of a record");
            assert_eq!(
                read,
                if length < reach { Beginning::Cut(reach) } else { Beginning::Whole(connection().into()) }
            );
        }
        assert_eq!(profile("testing", &record, usize::MAX).expect("all of it"), whole);
        // More was asked for, and there is no more.
        assert!(profile("testing", &record[..reach - 1], reach).is_err());
        assert!(profile("testing", &record[..HEADER - 1], HEADER - 1).is_err());
    }

    #[test]
    fn the_head_is_the_beginning_of_the_profile() {
        let record = encoded();
        for (length, expected) in [(3, &b"pro"[..]), (7, b"profile"), (100, b"profile")] {
            assert_eq!(head("testing", &record, length).expect("whole"), expected);
            let enough = &record[..reach_of(length.min(7))];
            assert_eq!(head("testing", enough, length).expect("enough"), expected);
            assert!(head("testing", &enough[..enough.len() - 1], length).is_err());
        }
    }

    #[test]
    fn the_format_is_what_it_was() {
        let small = StoredConnection {
            revision: Revision {
                sign_in: SignIn { number: 5, nonce: *b"abcdefgh" },
                generation: 258,
                nonce: *b"0123456789abcdef",
            },
            profile: b"p".to_vec(),
            tokens: b"to".to_vec(),
            grant: b"gra".to_vec(),
            notice: None,
        };
        let record = encode("testing", &small).expect("fits");
        let expected = b"TW\x02\0\0\0\0\0\0\0\x05abcdefgh\0\0\0\0\0\0\x01\x020123456789abcdef\
                         \0\0\0\x01\0\0\0\x02\0\0\0\x03ptogra";
        assert_eq!(record, expected);
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let record = encoded();
        for length in 0..record.len() {
            assert!(decode("testing", &record[..length]).is_err(), "{length}");
        }
        let mut longer = record;
        longer.push(0);
        assert!(decode("testing", &longer).is_err());
    }

    #[test]
    fn no_flipped_bit_panics_and_none_in_the_frame_goes_unseen() {
        let record = encoded();
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let framed = bit / 8 < REVISION_START || (REVISION_END..HEADER).contains(&(bit / 8));
            let answer = decode("testing", &damaged);
            assert_eq!(answer.is_err(), framed, "bit {bit}");
            assert!(answer.is_ok_and(|read| read != connection()) || framed, "bit {bit}");
        }
    }

    #[test]
    fn another_format_says_which() {
        let mut record = encoded();
        record[2] = 9;
        let text = decode("testing", &record).expect_err("unknown").to_string();
        assert!(text.contains("format is 9"), "{text}");
    }

    #[test]
    fn no_field_outgrows_its_cap() {
        let mut large = connection();
        large.tokens = vec![0; MAX_FIELD];
        let mut record = encode("testing", &large).expect("just fits");
        assert!(decode("testing", &record).is_ok());
        large.tokens.push(0);
        assert!(encode("testing", &large).is_err());
        // One more, written by somebody who does not know the cap.
        let length = u32::try_from(MAX_FIELD + 1).expect("small").to_be_bytes();
        record[REVISION_END + 4..REVISION_END + 8].copy_from_slice(&length);
        record.push(0);
        assert!(decode("testing", &record).is_err());
    }
}
