//! The options of a query that OData gives a meaning, and what is wrong with one.

/// Options of OData that are understood, without their `$`.
const UNDERSTOOD: [&str; 11] = [
    "count",
    "deltatoken",
    "expand",
    "filter",
    "format",
    "id",
    "orderby",
    "search",
    "select",
    "skip",
    "skiptoken",
];
/// Those that reach elsewhere in ways that nobody judges here.
pub(super) const REFUSED: [&str; 6] = ["apply", "compute", "index", "it", "levels", "root"];
/// The one option that is a word of its own.
const TOP: &str = "top";
/// Why a query is refused. The text continues a sentence that begins with the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryFault {
    /// A bad escape, a control character, or no UTF-8.
    #[error("has a bad escape, a control character, or is not UTF-8 once decoded")]
    Encoding,
    /// A name that is no name.
    #[error("has a parameter with an odd name (a parameter alias `@…`, a second escape, or a space)")]
    Name,
    /// An option of OData that is not understood, or reaches elsewhere.
    #[error("has an option of OData that is not relayed ($apply, $compute, $levels, …)")]
    Option,
    /// A parameter that some frameworks take for the method.
    #[error("has a parameter that names another method (`_method` and its kin)")]
    Method,
    /// `$id` at another path than `…/$ref`.
    #[error("has `$id`, which is relayed at `…/$ref` only")]
    Id,
    /// `$expand` in another form than that of names.
    #[error(
        "has a `$expand` that is not a list of navigations by name, with $select, $filter, $orderby, $top, \
         $skip, $count, $search and $expand in parentheses (`*` and $levels are not relayed)"
    )]
    Expand,
    /// `$select` with options.
    #[error("has a `$select` with parentheses")]
    Select,
    /// `$filter` or `$orderby` that begins elsewhere.
    #[error(
        "has a `$filter` or `$orderby` with `$root`, a parameter alias, or a type's full name outside of \
         quotes"
    )]
    Filter,
}

/// Parameters that some frameworks take for the method, as they take the fields of these names.
const METHODS: [&str; 5] =
    ["_method", "x-http-method", "x-http-method-override", "x-method-override", "x-method"];

/// Whether a parameter names another method. Any case, and `_` for `-`.
pub(super) fn names_method(name: &str) -> bool {
    let name = name.replace('_', "-");
    METHODS.iter().any(|one| one.replace('_', "-").eq_ignore_ascii_case(&name))
}

/// Returns an option's name, without `$` and in lower case, if it is one of OData.
pub(super) fn option(name: &str) -> Option<&'static str> {
    let name = name.strip_prefix('$').unwrap_or(name);
    let mut known = UNDERSTOOD.iter().chain(&REFUSED).chain([&TOP]);
    known.find(|known| known.eq_ignore_ascii_case(name)).copied()
}

/// Whether an expression reads from the root, from a parameter, or by a cast; or has both kinds of quotes, so
/// that readers may disagree on what is text. What stands in quotes is text.
pub(super) fn begins_elsewhere(expression: &str) -> bool {
    let outside: String =
        expression.split('\'').step_by(2).collect::<Vec<_>>().join("'").to_ascii_lowercase();
    let has_both = expression.contains('"') && expression.contains('\'');
    has_both || ["$root", "@", "microsoft.graph", "graph."].iter().any(|word| outside.contains(word))
}
