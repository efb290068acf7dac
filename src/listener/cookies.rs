//! The cookies that a request brings.

use http::{HeaderMap, HeaderValue, header};

/// Most cookies that are read. Browsers keep fewer for one domain (Chrome and Firefox 180).
const MOST_COOKIES: usize = 256;

/// Iterates over the names and values.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .take(MOST_COOKIES)
        .filter_map(|pair| pair.trim().split_once('='))
}

/// Returns the value of a cookie. Two of one name are none: somebody planted one.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut found = cookies(headers).filter(|(one, _)| *one == name);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Some(value),
        _ => None,
    }
}

/// Returns true if the browser sent more cookies than are read.
pub fn are_too_many_cookies(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::COOKIE).iter();
    let separators = |value: &HeaderValue| value.as_bytes().iter().filter(|byte| **byte == b';').count();
    fields.map(|value| separators(value) + 1).sum::<usize>() > MOST_COOKIES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(fields: &[&str]) -> HeaderMap {
        let field = |text: &&str| (header::COOKIE, HeaderValue::from_str(text).expect("a header"));
        fields.iter().map(field).collect()
    }

    #[test]
    fn a_cookie_counts_if_it_is_the_only_one_of_its_name() {
        assert_eq!(cookie(&sent(&["a=1; b=2", "c=x=y"]), "b"), Some("2"));
        assert_eq!(cookie(&sent(&["a=1; b=2", "c=x=y"]), "c"), Some("x=y"));
        assert_eq!(cookie(&sent(&["a=1"]), "b"), None);
        for planted in [&["a=1; a=1"][..], &["a=1", "a=2"]] {
            assert_eq!(cookie(&sent(planted), "a"), None, "{planted:?}");
        }
    }

    #[test]
    fn as_many_cookies_as_a_browser_keeps_are_read_and_no_more() {
        let with = |count: usize| {
            let half = |count: usize| vec!["a=b"; count].join("; ");
            sent(&[&half(count / 2), &half(count - count / 2)])
        };
        let (most, more) = (with(MOST_COOKIES), with(MOST_COOKIES + 1));
        assert_eq!((are_too_many_cookies(&most), are_too_many_cookies(&more)), (false, true));
        assert_eq!((cookies(&most).count(), cookies(&more).count()), (MOST_COOKIES, MOST_COOKIES));
        assert!(!are_too_many_cookies(&HeaderMap::new()));
    }
}
