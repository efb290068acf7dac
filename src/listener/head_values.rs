//! The target and the host of a head.

/// Longest path that is kept of a head that is too long: longer than any route with the longest name.
pub(super) const MAX_PATH: usize = 512;

/// Returns true if a value is a host and perhaps a port.
pub(super) fn is_host(value: &[u8]) -> bool {
    let is_part = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
    };
    value.iter().all(is_part)
}

/// Returns true if a target has no character that another reader could take for an end or a separator.
pub(super) fn is_target(target: &[u8]) -> bool {
    target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#' && *byte != b'\\')
}

/// Returns the path of a head's request line, without its query, as far as it is there: at most [`MAX_PATH`]
/// bytes. A target in another form has none.
pub(super) fn path_of(head: &[u8]) -> String {
    let target = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let path = target.iter().take_while(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
    let path: String = path.take(MAX_PATH).map(|byte| char::from(*byte)).collect();
    if path.starts_with('/') { path } else { String::new() }
}
