//! `docs/asvs.md`: the met and unmet clauses of the OWASP ASVS 5.0, made from `docs/asvs.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    chapters: BTreeMap<String, String>,
    levels: BTreeMap<String, String>,
    left_out: BTreeMap<String, String>,
    row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    clauses: String,
    state: State,
    how: String,
    by: Vec<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    #[serde(rename = "met")]
    Met,
    #[serde(rename = "partly")]
    Partly,
    #[serde(rename = "not met")]
    NotMet,
    #[serde(rename = "operator")]
    Operator,
    #[serde(rename = "n/a")]
    NotApplicable,
}

impl State {
    const ALL: [(State, &str); 5] = [
        (State::Met, "met"),
        (State::Partly, "partly"),
        (State::NotMet, "**not met**"),
        (State::Operator, "up to the operator"),
        (State::NotApplicable, "does not apply"),
    ];

    fn words(self) -> &'static str {
        State::ALL.iter().find(|(state, _)| *state == self).expect("all are there").1
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source() -> Source {
    let text = std::fs::read_to_string(root().join("docs/asvs.toml")).expect("docs/asvs.toml");
    toml::from_str(&text).unwrap_or_else(|error| panic!("docs/asvs.toml: {error}"))
}

/// `V1.2.3` as numbers, to be sorted.
fn numbers(clause: &str) -> Vec<u32> {
    let numbers = clause.trim_start_matches('V').split('.').map(str::parse);
    numbers.collect::<Result<_, _>>().unwrap_or_else(|_| panic!("{clause} is no clause"))
}

fn chapter(clause: &str) -> &str {
    clause.split('.').next().expect("a chapter")
}

/// Every clause of the sections with its level.
fn clauses(source: &Source) -> BTreeMap<Vec<u32>, (String, char)> {
    let of_section = |(section, levels): (&String, &String)| {
        let clause = |(at, level): (usize, char)| {
            let id = format!("{section}.{}", at + 1);
            (numbers(&id), (id, level))
        };
        levels.chars().enumerate().map(clause).collect::<Vec<_>>()
    };
    source.levels.iter().flat_map(of_section).collect()
}

#[test]
fn every_clause_has_one_row_and_what_it_names_exists() {
    let source = source();
    let mut rows: Vec<&str> = source.row.iter().flat_map(|row| row.clauses.split(' ')).collect();
    let known: BTreeSet<String> = clauses(&source).into_values().map(|(id, _)| id).collect();
    // ASVS 5.0.0 has 345 clauses, 25 of them in the chapters that are left out.
    assert_eq!((source.chapters.len(), source.left_out.len(), known.len()), (17, 2, 320));
    rows.sort_unstable();
    assert_eq!(rows, known.iter().map(String::as_str).collect::<Vec<_>>());
    for Row { clauses, state, how, by } in &source.row {
        assert!(how.ends_with('.') && how.len() > 10, "{clauses}: {how}");
        assert!(*state != State::Met || !by.is_empty(), "{clauses} is met by nothing");
        for place in by {
            let (file, test) = place.split_once("::").unwrap_or((place, ""));
            let path = root().join(file);
            assert!(path.exists(), "{clauses}: there is no {file}");
            if !test.is_empty() {
                let text = std::fs::read_to_string(path).expect("a file of text");
                assert!(text.contains(&format!("fn {test}(")), "{clauses}: {file} has no test {test}");
            }
        }
    }
}

fn page(source: &Source) -> String {
    let mut page = String::from(
        "# ASVS 5.0, level 3\n\nA test makes this page from `docs/asvs.toml` (`UPDATE_ASVS=1 cargo test --test it asvs::`): change that file.\n\nIt says how \
         tokenward meets the [OWASP Application Security Verification Standard](https://github.com/OWASP/ASVS) 5.0.0.\n\
         The standard's text is under CC BY-SA 4.0 and not repeated here. The project judged itself, from its code and tests;\nnobody else has \
         verified it.\n\n",
    );
    let known = clauses(source);
    let state_of: BTreeMap<&str, &Row> =
        source.row.iter().flat_map(|row| row.clauses.split(' ').map(move |clause| (clause, row))).collect();
    page.push_str(
        "| level | met | partly | not met | up to the operator | does not apply |\n|---|---|---|---|---|---|\n",
    );
    for level in ['1', '2', '3'] {
        let _ = write!(page, "| {level} |");
        for (state, _) in State::ALL {
            let counts =
                known.values().filter(|(id, of)| *of == level && state_of[id.as_str()].state == state);
            let _ = write!(page, " {} |", counts.count());
        }
        page.push('\n');
    }
    let mut chapters: Vec<(&String, &String)> = source.chapters.iter().collect();
    chapters.sort_by_key(|(id, _)| numbers(id));
    for (id, title) in chapters {
        let _ = write!(page, "\n## {id} {title}\n\n");
        if let Some(why) = source.left_out.get(id) {
            let _ = writeln!(page, "{why} The chapter does not apply.");
            continue;
        }
        for (clause, level) in known.values().filter(|(clause, _)| chapter(clause) == id) {
            let row = state_of[clause.as_str()];
            let by: Vec<String> = row
                .by
                .iter()
                .map(|place| match place.split_once("::") {
                    Some((file, test)) => format!("`{test}` in `{file}`"),
                    None => format!("`{place}`"),
                })
                .collect();
            let by = if by.is_empty() { String::new() } else { format!(" Evidence: {}.", by.join(", ")) };
            let text = format!("**{clause}** (level {level}): {}. {}{by}", row.state.words(), row.how);
            page.push_str(&tokenward::config::list_item(&text));
        }
    }
    page
}

#[test]
fn the_page_is_made_of_its_source() {
    let (path, wanted) = (root().join("docs/asvs.md"), page(&source()));
    if std::env::var("UPDATE_ASVS").is_ok() {
        std::fs::write(&path, &wanted).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "docs/asvs.md is out of date: UPDATE_ASVS=1 cargo test --test it asvs::");
}
