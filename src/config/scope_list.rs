//! Reading of lists of scopes.

use super::context::Section;

/// Reads `scopes`; with `wildcard` they may be `*`.
pub(super) fn scopes(section: &Section<'_>, wildcard: bool) -> Vec<String> {
    let mut all = Vec::new();
    for leaf in section.texts("scopes") {
        let token = leaf.value.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        if leaf.value.contains(' ') {
            leaf.mistake("is several scopes in one string: make each an item of the list");
        } else if !token {
            leaf.mistake("is not a scope");
        } else if leaf.value == "*" && !wildcard {
            leaf.mistake("an app cannot ask for everything: name the scopes");
        }
        all.push(leaf.value.to_owned());
    }
    all
}
