//! JSON lines, in the form of the API's request, or sealed as `export` seals them.

use serde::Deserialize;

use super::{Secret, misread};
use crate::api::admin::wire::ImportAccount;
use crate::cli::import::row::Foreign;
use crate::jwe::Opener;

/// A row, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    app: Option<String>,
    connection: Option<String>,
    refresh_token: Secret,
    caller: Option<String>,
    client_id: Option<String>,
    account: Option<ImportAccount>,
    scopes: Option<Words>,
    labels: Option<Vec<String>>,
}

/// Scopes as a list or as one text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    List(Vec<String>),
    Text(String),
}

/// Reads a row. What is wrong is told by its place, and nothing of the row is repeated.
pub(super) fn read(text: &[u8], opener: Option<&Opener>) -> Result<Foreign, String> {
    let text = text.trim_ascii();
    if text.starts_with(b"{") || !text.starts_with(b"eyJ") {
        return plain(text);
    }
    let opener = opener.ok_or("is sealed: --source-key-file names the private key")?;
    let sealed = std::str::from_utf8(text).map_err(|_| "is not JSON")?;
    plain(&opener.open(sealed).map_err(|error| error.to_string())?)
}

fn plain(text: &[u8]) -> Result<Foreign, String> {
    let row: Written = serde_json::from_slice(text).map_err(|error| misread(&error))?;
    Ok(Foreign {
        app: row.app,
        connection: row.connection,
        caller: row.caller,
        client_id: row.client_id,
        account: row.account,
        scopes: row.scopes.map(|scopes| match scopes {
            Words::List(list) => list,
            Words::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
        }),
        labels: row.labels,
        ..Foreign::new(row.refresh_token.0)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::Rows as _;
    use super::super::lines::{LONGEST, Lines};
    use super::*;
    use crate::cli::import::row::Row;

    fn rows(text: &str) -> Vec<Row> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows");
        std::fs::write(&path, text).expect("written");
        let mut lines = Lines::new(File::open(path).expect("it"), |line: &[u8]| read(line, None));
        std::iter::from_fn(|| lines.next().ok().flatten()).collect()
    }

    #[test]
    fn each_line_is_a_grant_or_says_why_it_is_none() {
        let long = "x".repeat(LONGEST + 1);
        let text = format!(
            "{{\"app\":\"a\",\"connection\":\"c\",\"refresh_token\":\"canary\\u0041\",\
             \"scopes\":\"A  B\"}}\r\n\n\
             {{\"refresh_token\":\"r\",\"scopes\":[\"A\"],\"account\":{{\"tid\":\"t\",\"oid\":\"o\"}}}}\n\
             {{\"refresh_token\":\"canary\",\"sekrit\":1}}\n{long}\ncanary\n{{\"app\":\"a\"}}\n\
             {{\"refresh_token\":\"last\"}}"
        );
        let rows = rows(&text);
        let places: Vec<u64> = rows.iter().map(|row| row.place).collect();
        assert_eq!(places, [1, 3, 4, 5, 6, 7, 8]);
        let first = rows[0].grant.as_ref().unwrap_or_else(|why| panic!("{why}"));
        assert!(first.refresh_token.expose() == "canaryA");
        assert_eq!(first.scopes.as_deref(), Some(&["A".to_owned(), "B".to_owned()][..]));
        let second = rows[1].grant.as_ref().unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(second.account.as_ref().and_then(|account| account.oid.as_deref()), Some("o"));
        for row in &rows[2..6] {
            assert!(row.grant.as_ref().is_err_and(|why| !why.contains("canary") && !why.contains("sekrit")));
        }
        assert!(rows[6].grant.as_ref().is_ok_and(|row| row.refresh_token.expose() == "last"));
    }
}
