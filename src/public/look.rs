//! How the pages look and speak: the company's name, logo and support address, the languages, and the names
//! of callers for people.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::language::Languages;

/// Largest logo, in bytes: it comes with every page.
pub const LARGEST_LOGO: usize = 128 * 1024;

/// What the configuration says about the pages.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// The company's name.
    pub company: Option<String>,
    /// Its logo.
    pub logo: Option<Logo>,
    /// Whom to ask: a mail address, a URL, or words. An app may have its own.
    pub support: Option<String>,
    /// The languages.
    pub languages: Languages,
    /// Names of callers for people, by their names in the configuration.
    pub callers: BTreeMap<String, String>,
}

/// A picture, in a format that browsers show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logo {
    pub(super) content_type: &'static str,
    pub(super) content: Bytes,
}

impl Logo {
    /// Recognises the format of a picture by its content.
    ///
    /// # Errors
    /// Says what the content is not.
    pub fn read(content: Vec<u8>) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(&content).ok().map(str::trim_start);
        let is_svg = text.is_some_and(|text| {
            let text = text.trim_start_matches('\u{feff}');
            (text.starts_with("<svg") || text.starts_with("<?xml") || text.starts_with("<!--"))
                && text.contains("<svg")
        });
        let content_type = match content.as_slice() {
            [0x89, b'P', b'N', b'G', ..] => "image/png",
            [0xff, 0xd8, 0xff, ..] => "image/jpeg",
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
            _ if is_svg => "image/svg+xml",
            _ => return Err("is no picture in SVG, PNG, WebP or JPEG"),
        };
        Ok(Logo { content_type, content: content.into() })
    }
}

/// Returns the link that a support address is, if it is one: a mail address or a URL.
pub(super) fn support_link(support: &str) -> Option<String> {
    if support.starts_with("https://") || support.starts_with("http://") || support.starts_with("mailto:") {
        return Some(support.to_owned());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
    let (name, host) = support.split_once('@')?;
    let is_address = [name, host].iter().all(|part| !part.is_empty() && part.bytes().all(plain));
    (is_address && host.contains('.')).then(|| format!("mailto:{support}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_told_by_its_content() {
        let rows: [(&[u8], Option<&str>); 8] = [
            (b"\x89PNG\r\n\x1a\n", Some("image/png")),
            (b"\xff\xd8\xff\xe0", Some("image/jpeg")),
            (b"RIFF0000WEBPVP8 ", Some("image/webp")),
            (b" <svg xmlns='http://www.w3.org/2000/svg'/>", Some("image/svg+xml")),
            (b"<?xml version='1.0'?><svg/>", Some("image/svg+xml")),
            (b"<?xml version='1.0'?><html/>", None),
            (b"<html><svg/></html>", None),
            (b"", None),
        ];
        for (content, kind) in rows {
            let read = Logo::read(content.to_vec()).ok().map(|logo| logo.content_type);
            assert_eq!(read, kind, "{content:?}");
        }
    }

    #[test]
    fn only_an_address_becomes_a_link() {
        let rows = [
            ("help@contoso.com", Some("mailto:help@contoso.com")),
            ("https://contoso.com/help", Some("https://contoso.com/help")),
            ("ext. 4711", None),
            ("the help desk (help@contoso.com)", None),
            ("javascript:alert(1)//@contoso.com", None),
            ("a@b@contoso.com", None),
        ];
        for (support, link) in rows {
            assert_eq!(support_link(support).as_deref(), link, "{support}");
        }
    }
}
