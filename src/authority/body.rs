//! Decoding of an answer's body into its text: decompressed if necessary, and without a byte order mark.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, HeaderMap};
use zeroize::Zeroizing;

/// A byte order mark, which some servers put before UTF-8 (RFC 8259 §8.1 lets readers skip it).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// First bytes of gzip data.
const GZIP: &[u8] = b"\x1f\x8b";

/// Returns a body's text, at most `cap` bytes. We ask for plain text, but a server that ignores that may send
/// gzip (RFC 9110 §12.5.3). `Err` says in our words what is wrong.
pub(super) fn text_of(
    headers: &HeaderMap,
    mut body: Zeroizing<Vec<u8>>,
    cap: usize,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let codings = headers.get_all(CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let codings = codings.flat_map(|value| value.split(',')).map(|coding| coding.trim().to_ascii_lowercase());
    let packed: Vec<String> = codings.filter(|coding| !["", "identity"].contains(&coding.as_str())).collect();
    match packed.as_slice() {
        [] => {}
        // (Some servers claim gzip for an unchanged body.)
        [one] if ["gzip", "x-gzip"].contains(&one.as_str()) && !body.starts_with(GZIP) => {}
        [one] if ["gzip", "x-gzip"].contains(&one.as_str()) => body = unpacked(&body, cap)?,
        _ => return Err("it is compressed in another way than gzip, and that was not asked for".to_owned()),
    }
    if body.starts_with(BYTE_ORDER_MARK) {
        body.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(body)
}

fn unpacked(packed: &[u8], cap: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    // Large enough from the start, so that no outgrown buffer stays behind with a secret.
    let mut whole = Zeroizing::new(Vec::with_capacity(cap + 1));
    let most = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    let read = MultiGzDecoder::new(packed).take(most).read_to_end(&mut whole);
    read.map_err(|_| "it is said to be gzip and cannot be unpacked".to_owned())?;
    if whole.len() > cap {
        return Err(format!("it is larger than {cap} bytes when unpacked"));
    }
    Ok(whole)
}

/// Compresses data, for tests.
#[cfg(test)]
pub(super) fn packed(text: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).expect("written");
    encoder.finish().expect("packed")
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    const CAP: usize = 1000;

    fn text(coding: &str, body: &[u8]) -> Result<Vec<u8>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_str(coding).expect("a header"));
        text_of(&headers, Zeroizing::new(body.to_vec()), CAP).map(|text| text.to_vec())
    }

    #[test]
    fn what_came_compressed_or_marked_is_what_was_meant() {
        let marked = [BYTE_ORDER_MARK, b"{}"].concat();
        for (coding, body) in [
            ("identity", b"{}".to_vec()),
            ("", marked.clone()),
            ("gzip", packed(b"{}")),
            ("X-GZIP, identity", packed(&marked)),
            ("gzip", b"{}".to_vec()),
            ("gzip", [packed(b"{"), packed(b"}")].concat()),
        ] {
            assert_eq!(text(coding, &body).as_deref(), Ok(&b"{}"[..]), "{coding}");
        }
        assert_eq!(text("gzip", &packed(&[b' '; CAP])).map(|text| text.len()), Ok(CAP));
    }

    #[test]
    fn what_cannot_be_unpacked_or_grows_too_large_is_refused() {
        // A megabyte in about a kilobyte: only up to the cap is decompressed.
        let bomb = packed(&vec![b' '; 1 << 20]);
        assert!(bomb.len() < 2048);
        assert!(text("gzip", &bomb).is_err_and(|why| why.contains("larger than 1000 bytes")));
        let whole = packed(br#"{"access_token":"a"}"#);
        assert!(text("gzip", &whole[..whole.len() - 9]).is_err());
        for coding in ["br", "gzip, gzip", "deflate", "gzip, br"] {
            assert!(text(coding, &whole).is_err_and(|why| why.contains("another way")), "{coding}");
        }
    }
}
