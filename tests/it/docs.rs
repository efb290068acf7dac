//! Tests of the documents: names exist, commands are understood, examples load, and the API document
//! describes what the daemon serves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use entra_emulator::{Endpoint, Fault, FaultRule, RevokeKind};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokenward::broker::import::ImportFault;
use tokenward::domain::time::Timestamp;
use tokenward::domain::verdict::{BlockReason, ReauthReason};
use tokenward::events::Stranger;
use tokenward::telemetry::audit::{Action, AuditEvent};

use crate::http_client::{Answer, Browser, request};
use crate::launcher::repository;
use crate::world::{ALICE, BOB, Plan, World, text};

/// Documents for readers of this repository: these, and every page of `docs`.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "SEMANTICS.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "deploy/RUNBOOK.md",
];

fn documents() -> Vec<String> {
    let folder = std::fs::read_dir(root().join("docs")).expect("a folder");
    let names = folder.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut pages: Vec<String> =
        names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    pages.sort();
    DOCUMENTS.into_iter().map(str::to_owned).chain(pages).collect()
}

/// Every stable code of the contract with the statuses it comes with.
const CODES: [(&str, &[u16]); 28] = [
    ("invalid_request", &[400, 414]),
    ("caller_unauthenticated", &[401]),
    ("caller_forbidden", &[403]),
    ("app_not_found", &[404]),
    ("connection_not_found", &[404]),
    ("session_not_found", &[404]),
    ("not_found", &[404]),
    // Of no operation in particular: another method than the document's.
    ("method_not_allowed", &[]),
    ("reauthorization_required", &[409]),
    ("connection_blocked", &[409]),
    ("tenant_blocked", &[409]),
    ("scope_not_granted", &[409]),
    ("connection_paused", &[409]),
    ("confirmation_rejected", &[409]),
    // The operators' document has it.
    ("import_refused", &[]),
    ("rate_limited", &[429]),
    ("mailbox_busy", &[429]),
    ("events_gone", &[410]),
    ("relay_failed", &[502, 504]),
    ("internal", &[500]),
    ("authority_unavailable", &[503]),
    ("app_credential_rejected", &[503]),
    ("app_rejected", &[503]),
    ("record_damaged", &[503]),
    ("store_unavailable", &[503]),
    ("audit_unavailable", &[503]),
    ("overloaded", &[503]),
    ("issuer_unavailable", &[503]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

// ---------------------------------------------------------------------------------------------------- what
// they name

/// Text outside fenced blocks, and the fenced blocks with their language.
fn parts(document: &str) -> (String, Vec<(String, String)>) {
    let (mut prose, mut blocks) = (String::new(), Vec::new());
    let mut block: Option<(String, String, usize)> = None;
    for line in read(document).lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, &mut block) {
            (Some(language), None) => {
                block =
                    Some((language.trim().to_owned(), String::new(), line.len() - line.trim_start().len()));
            }
            (Some(_), Some(_)) => {
                let (language, content, _) = block.take().expect("matched");
                blocks.push((language, content));
            }
            (None, Some((_, content, indent))) => {
                content.push_str(line.get(*indent..).unwrap_or_default());
                content.push('\n');
            }
            (None, None) => {
                prose.push_str(line);
                prose.push('\n');
            }
        }
    }
    assert!(block.is_none(), "{document}: a block is not closed");
    (prose, blocks)
}

/// The words between single backticks.
fn code_spans(prose: &str) -> Vec<&str> {
    prose.split('`').skip(1).step_by(2).collect()
}

/// The targets of Markdown links.
fn links(prose: &str) -> Vec<&str> {
    prose.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target)).collect()
}

/// The anchors that a document's headings make.
fn anchors(document: &str) -> BTreeSet<String> {
    let heading = |line: &str| {
        let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
        let kept = title
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .collect::<String>();
        Some(kept.replace(' ', "-"))
    };
    parts(document).0.lines().filter_map(heading).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in &documents() {
        let (prose, _) = parts(document);
        for link in links(&prose).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(document).parent().expect("a relative path");
            let target = if file.is_empty() { PathBuf::from(document) } else { folder.join(file) };
            if !root().join(&target).exists() {
                wrong.push(format!("{document}: {link}"));
            } else if !anchor.is_empty() && !anchors(target.to_str().expect("UTF-8")).contains(anchor) {
                wrong.push(format!("{document}: no heading {link}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_that_is_named_exists() {
    const HERE: [&str; 8] =
        ["src/", "tests/", "docs/", "deploy/", "config/", "scripts/", "examples/", "benches/"];
    let mut wrong = Vec::new();
    for document in &documents() {
        for span in code_spans(&parts(document).0) {
            let path = file_of(span.split_whitespace().next().unwrap_or_default());
            let ours = HERE.iter().any(|folder| path.starts_with(folder))
                || (path.ends_with(".md") && !path.contains('/'));
            if ours && !path.contains(['*', '{', '…']) && !root().join(path).exists() {
                wrong.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The file of `src/file.rs` or of `src/file.rs::a_test`.
fn file_of(span: &str) -> &str {
    span.split_once(".rs::").map_or(span, |(file, _)| &span[..file.len() + ".rs".len()])
}

/// Whether this source has a test of that name, and runs it.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let named = [format!("fn {name}("), format!("async fn {name}(")];
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        named.iter().any(|name| line.starts_with(name.as_str()))
            && attributes.clone().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
            && !attributes.clone().any(|line| line.starts_with("#[ignore"))
    })
}

#[test]
fn a_cited_test_is_found_by_its_name_and_only_if_it_runs() {
    let source = "    #[test]\n    #[should_panic]\n    fn one() {}\n    #[tokio::test]\n    async fn two() {}\n\
                  fn three() {}\n#[test]\n#[ignore = \"slow\"]\nfn four() {}\n#[test]\nfn five_and_more() {}\n";
    let found = ["one", "two", "three", "four", "five"].map(|name| has_test(source, name));
    assert_eq!(found, [true, true, false, false, false]);
    assert_eq!(file_of("src/a.rs::b"), "src/a.rs");
    assert_eq!(file_of("src/a.rs"), "src/a.rs");
}

/// Each promise is numbered in order and cites the tests that keep it, or says that there is none.
#[test]
fn every_promise_names_the_test_that_keeps_it() {
    // What nobody can test from here: a property of somebody else's service.
    const UNTESTABLE: [usize; 1] = [40];
    // Cited whole: a suite, a model and a table, each of which is about the promise throughout.
    const WHOLE: [&str; 4] =
        ["src/store/suite.rs", "tests/model", "tests/data/authority/refusals.json", "tests/it/providers.rs"];
    let (prose, _) = parts("SEMANTICS.md");
    let promises = prose.split("## Not promised yet").next().expect("text");
    let mut items: Vec<String> = Vec::new();
    for line in promises.lines() {
        let numbered = line.split_once(". ").is_some_and(|(number, _)| number.parse::<usize>().is_ok());
        match (numbered, items.last_mut()) {
            (true, _) => items.push(line.to_owned()),
            (false, Some(item)) => {
                item.push('\n');
                item.push_str(line);
            }
            (false, None) => {}
        }
    }
    assert!(items.len() >= 40, "{}", items.len());
    for (at, item) in items.iter().enumerate() {
        let number = at + 1;
        assert!(item.starts_with(&format!("{number}. ")), "the numbers run on: {item}");
        let files: Vec<&str> = code_spans(item)
            .into_iter()
            .filter(|span| span.starts_with("src/") || span.starts_with("tests/"))
            .collect();
        if UNTESTABLE.contains(&number) {
            continue;
        }
        assert!(!files.is_empty(), "promise {number} names no test");
        for span in &files {
            match span.split_once("::") {
                Some((file, test)) => {
                    assert!(has_test(&read(file), test), "promise {number}: {file} has no test {test}");
                }
                None => assert!(
                    WHOLE.contains(span),
                    "promise {number}: which test of {span}? Cite it as {span}::its_name"
                ),
            }
        }
        let tested = files
            .iter()
            .map(|span| read(file_of(span)))
            .any(|source| source.contains("#[test]") || source.contains("#[tokio::test"))
            || item.contains("store/suite.rs");
        assert!(tested || item.contains("no test of its own yet"), "promise {number}: no test in {files:?}");
    }
}

/// Metrics and configuration keys that a text names are in the generated references.
#[test]
fn every_metric_and_every_key_that_a_document_names_exists() {
    let metrics = read("docs/metrics.md");
    let metrics: BTreeSet<&str> = code_spans(&metrics).into_iter().map(base_name).collect();
    let keys = configuration_keys();
    let mut wrong = Vec::new();
    for document in &documents() {
        let (prose, _) = parts(document);
        for span in code_spans(&prose) {
            let name = base_name(span);
            if name.len() > "tokenward_".len() && name.starts_with("tokenward_") && !metrics.contains(name) {
                wrong.push(format!("{document}: there is no metric {span}"));
            }
            if let Some(key) = configuration_key(span)
                && !keys.contains(&key)
            {
                wrong.push(format!("{document}: there is no key {span}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A metric's name without its labels and without what a histogram's series end in.
fn base_name(span: &str) -> &str {
    let end = |c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_';
    let name = span.split(end).next().unwrap_or_default();
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// The sections and keys of the configuration's reference, such as `apps.NAME.credentials.file`.
fn configuration_keys() -> BTreeSet<String> {
    let page = read("docs/configuration.md");
    let (mut section, mut keys) = (String::new(), BTreeSet::new());
    for line in page.split_once("\n## Reference\n").expect("the reference").1.lines() {
        if let Some(heading) = line.strip_prefix("### `") {
            section = heading.trim_matches(['[', ']', '`']).to_owned();
            let parents = section.match_indices('.').map(|(at, _)| section[..at].to_owned());
            keys.extend(parents.chain([section.clone()]).collect::<Vec<_>>());
        } else if let Some((key, _)) = line.strip_prefix("- **`").and_then(|line| line.split_once("`**")) {
            keys.insert(format!("{section}.{key}"));
        }
    }
    assert!(keys.len() > 120, "{}", keys.len());
    keys
}

/// The key of `limits.caller_wait`, of `[apps.outlook] client_id` or of `[callers.mail-sync]`, with NAME for
/// what the operator names; none for another text.
fn configuration_key(span: &str) -> Option<String> {
    const SECTIONS: [&str; 14] = [
        "store", "sealing", "listen", "outbound", "apps", "issuers", "callers", "admins", "pages", "limits",
        "log", "audit", "traces", "webhooks",
    ];
    const FILES: [&str; 6] = ["md", "rs", "log", "pub", "logrotate", "jsonl"];
    let mut words = span.split(' ');
    let first = words.next().unwrap_or_default();
    let inside = first.trim_start_matches('[').trim_end_matches(']');
    let is_section = inside.len() < first.len();
    let mut parts: Vec<&str> = inside.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect();
    let is_word = |part: &&str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let is_key = SECTIONS.contains(&parts[0])
        && parts.iter().all(is_word)
        && (is_section || parts.len() > 1 && !FILES.contains(parts.last()?));
    if !is_key {
        return None;
    }
    if ["apps", "issuers", "callers", "admins", "webhooks"].contains(&parts[0]) && parts.len() > 1 {
        parts[1] = "NAME";
    }
    let key = words.next().filter(|word| is_section && is_word(word));
    Some(parts.into_iter().chain(key).collect::<Vec<_>>().join("."))
}

#[test]
fn keys_are_told_from_other_words() {
    for (span, key) in [
        ("limits.caller_wait", Some("limits.caller_wait")),
        ("apps.outlook.credentials[0].file", Some("apps.NAME.credentials.file")),
        ("[apps.outlook] client_id", Some("apps.NAME.client_id")),
        ("[[callers.mail-sync.allow]]", Some("callers.NAME.allow")),
        ("[pages]", Some("pages")),
        ("audit.pub", None),
        ("store", None),
        ("store/redis.rs", None),
        ("tokens.contoso.com", None),
    ] {
        assert_eq!(configuration_key(span).as_deref(), key, "{span}");
    }
    assert_eq!(
        base_name("tokenward_refresh_duration_seconds_bucket{app}"),
        "tokenward_refresh_duration_seconds"
    );
}

/// A number that means something else in the browser is on the page of numbers, too.
#[test]
fn the_page_of_numbers_has_those_of_the_browser() {
    let (page, source) = (read("docs/incidents.md"), read("src/authority/redirect.rs"));
    let table = source.split_once("const NUMBERS:").expect("the table").1;
    let table = table.split_once("\n];").expect("its end").0;
    let numbers: Vec<&str> =
        table.split(|c: char| !c.is_ascii_digit()).filter(|number| number.len() > 4).collect();
    assert!(numbers.len() > 20, "{numbers:?}");
    let on_the_page: BTreeSet<&str> = page.split(|c: char| !c.is_ascii_digit()).collect();
    let left: Vec<&&str> = numbers.iter().filter(|number| !on_the_page.contains(**number)).collect();
    assert!(left.is_empty(), "not on docs/incidents.md: {left:?}");
}

/// The name of a test has at least three underscores; a metric, which may have as many, begins with the
/// program's name.
#[test]
fn every_test_that_the_security_page_names_exists() {
    let is_test = |span: &&str| {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        span.matches('_').count() >= 3 && span.bytes().all(word) && !span.starts_with("tokenward_")
    };
    let (prose, _) = parts("SECURITY.md");
    let named: BTreeSet<&str> = code_spans(&prose).into_iter().filter(is_test).collect();
    let mut sources = String::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&std::fs::read_to_string(path).expect("a source"));
            }
        }
    }
    let missing: Vec<&&str> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "there is no such test: {missing:#?}");
    // Each kind of attacker has its section, and each line of it a test.
    let sections = prose.split_once("\n## Who can do what").expect("the heading").1.split("\n## ").next();
    let sections: Vec<&str> = sections.expect("text").split("\n### ").skip(1).collect();
    let letters: Vec<&str> = sections.iter().filter_map(|section| section.get(..2)).collect();
    assert_eq!(letters, ["a.", "b.", "c.", "d.", "e.", "f.", "g."]);
    for section in sections {
        let lines: Vec<&str> = section.split("\n\n").nth(2).expect("a list").split("\n- ").collect();
        for line in lines {
            assert!(code_spans(line).iter().any(is_test), "kept by no test: {line}");
        }
    }
}

/// Blocks of code, tables, URLs and cited tests do not count: they cannot be wrapped.
#[test]
fn no_line_of_a_document_is_longer_than_120_characters() {
    let others =
        ["findings/README.md", "tests/emulator/README.md", "tests/interop/README.md", "tests/soak/README.md"];
    let mut wrong = Vec::new();
    for document in documents().iter().map(String::as_str).chain(others) {
        let mut in_block = false;
        for (at, line) in read(document).lines().enumerate() {
            let is_fence = line.trim_start().starts_with("```");
            in_block ^= is_fence;
            let urls = line.split_whitespace().filter(|word| word.contains("://") || word.contains(".rs::"));
            let length = line.chars().count() - urls.map(|url| url.chars().count()).sum::<usize>();
            if length > 120 && !in_block && !is_fence && !line.starts_with('|') {
                wrong.push(format!("{document}:{}: {line}", at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_walk_of_a_refresh_has_twelve_steps_at_most_and_names_functions_that_exist() {
    let (prose, _) = parts("ARCHITECTURE.md");
    let walk = prose.split_once("\n### How a refresh runs\n").expect("the walk").1;
    let walk = walk.split("\n### ").next().expect("text");
    let is_step = |line: &&str| line.split_once(". ").is_some_and(|(number, _)| number.parse::<u8>().is_ok());
    let steps = walk.lines().filter(is_step).count();
    assert!((6..=12).contains(&steps), "{steps} steps");
    let named: Vec<(&str, &str)> = code_spans(walk).iter().filter_map(|span| span.split_once("::")).collect();
    for (file, function) in named.iter().filter(|(file, _)| *file != "a") {
        let source = read(&format!("src/refresh/{file}.rs"));
        let defined = [format!("fn {function}("), format!("fn {function}<")];
        assert!(defined.iter().any(|name| source.contains(name)), "{file}.rs has no function {function}");
    }
    assert!(named.len() > steps, "{named:?}");
}

/// Two screens show what it is, how to try it and how to call it; the rest of the page is for operators.
#[test]
fn the_readme_begins_with_two_screens_and_what_the_quickstart_prints() {
    let (readme, quickstart) = (read("README.md"), read("examples/quickstart.rs"));
    let screens = readme.split_once("\n## Registering the real application").expect("the guide").0;
    assert!(screens.lines().count() <= 100, "{} lines", screens.lines().count());
    let said: Vec<&str> = screens.lines().filter_map(|line| line.strip_prefix("== ")).collect();
    assert!(said.len() > 4, "{said:?}");
    for line in said {
        assert!(quickstart.contains(line), "the quickstart does not say: {line}");
    }
}

#[test]
fn nothing_speaks_of_one_machine() {
    for document in &documents() {
        let text = read(document);
        for word in ["/home/", "/Users/"] {
            assert!(!text.contains(word), "{document} holds {word}");
        }
    }
}

// ------------------------------------------------------------------------------------------------ what they
// tell to type

fn tokenward(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tokenward")).args(arguments).output().expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The help of a command by its words; none when there is no such command.
fn help(words: &[String], known: &mut BTreeMap<Vec<String>, Option<String>>) -> Option<String> {
    known
        .entry(words.to_vec())
        .or_insert_with(|| {
            let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
            arguments.push("--help");
            let (found, said) = tokenward(&arguments);
            found.then_some(said)
        })
        .clone()
}

/// Every command line `tokenward …` in a text: where a shell would take it for the program, up to where it
/// stops.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    const BEFORE: [&str; 7] = ["$", "$(", "(", "--", "&&", ";", "|"];
    let mut found = Vec::new();
    for line in text.replace("\\\n", " ").lines() {
        let line = line.split(" #").next().unwrap_or_default();
        for (at, name) in line.match_indices("tokenward ") {
            let before = line[..at].trim_end();
            if !before.is_empty() && !BEFORE.iter().any(|end| before.ends_with(end)) {
                continue;
            }
            let command = &line[at + name.len()..];
            let stops = [" |", ">", ";", ")", "&", "`", "\""];
            let end = stops.iter().filter_map(|stop| command.find(stop)).min().unwrap_or(command.len());
            let words: Vec<String> = command[..end].split_whitespace().map(str::to_owned).collect();
            // `runuser -u tokenward -- tokenward …`: the second is the program; and `tokenward …` is any
            // command.
            if words.first().is_some_and(|word| word != "--" && word != "…") {
                found.push(words);
            }
        }
    }
    found
}

/// Checks one command line against the program's own help: command, flags, number of arguments.
fn check(words: &[String], known: &mut BTreeMap<Vec<String>, Option<String>>) -> Result<(), String> {
    let top = help(&[], known).unwrap_or_default();
    let (mut command, mut said) = (Vec::new(), top.clone());
    let mut arguments = 0;
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word.starts_with("--") {
            let flag = word.split('=').next().unwrap_or(word);
            let lists = |said: &str| said.split([' ', ',', '\n']).any(|word| word == flag);
            if !lists(&said) && !lists(&top) {
                return Err(format!("`{}` has no {flag}", command.join(" ")));
            }
            let takes_value = said.contains(&format!("{flag} <")) || top.contains(&format!("{flag} <"));
            if takes_value && !word.contains('=') {
                rest.next();
            }
        } else if !said.contains("<COMMAND>") {
            arguments += 1;
        } else if word.contains('|') {
            // `connections list|show`: each of them.
            for one in word.split('|') {
                let each = [&command[..], &[one.to_owned()]].concat();
                help(&each, known).ok_or_else(|| format!("there is no `{}`", each.join(" ")))?;
            }
            return Ok(());
        } else {
            command.push(word.clone());
            said = help(&command, known).ok_or_else(|| format!("there is no `{}`", command.join(" ")))?;
        }
    }
    let usage = said.lines().find(|line| line.starts_with("Usage:")).unwrap_or_default();
    let takes = usage.matches('<').count() + usage.matches('[').count() - usage.matches("[OPTIONS]").count();
    if arguments > takes {
        return Err(format!("`{}` takes {takes} arguments, not {arguments}", command.join(" ")));
    }
    Ok(())
}

#[test]
fn every_command_line_is_understood() {
    let mut known = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut checked = 0;
    let pages = documents();
    for document in pages.iter().filter(|name| !["CHANGELOG.md", "ARCHITECTURE.md"].contains(&name.as_str()))
    {
        let (prose, blocks) = parts(document);
        let mut texts: Vec<String> = code_spans(&prose)
            .into_iter()
            .filter(|span| span.starts_with("tokenward "))
            .map(|span| span.replace('\n', " "))
            .collect();
        texts.extend(
            blocks
                .into_iter()
                .filter(|(language, _)| ["sh", "console", "bash"].contains(&language.as_str()))
                .map(|(_, content)| content),
        );
        for words in texts.iter().flat_map(|text| command_lines(text)) {
            checked += 1;
            if let Err(problem) = check(&words, &mut known) {
                wrong.push(format!("{document}: tokenward {}: {problem}", words.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 40, "only {checked} command lines were found");
}

/// The flags that a help lists.
fn flags(help: &str) -> BTreeSet<String> {
    let is_flag = |word: &&str| word.starts_with("--") && word.len() > 2;
    let end = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    help.lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| line.split_whitespace().find(is_flag))
        .filter_map(|flag| Some(format!("--{}", flag[2..].split(end).next()?)))
        .collect()
}

/// Every command with its help, from the program's own.
fn commands(command: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let said = help(command, &mut BTreeMap::new()).expect("a command");
    let Some((_, listed)) = said.split_once("\nCommands:\n") else {
        found.push((command.to_vec(), said));
        return;
    };
    let names = listed.lines().take_while(|line| !line.is_empty()).filter_map(|line| {
        // What a long description goes on with stands further in.
        let name = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?;
        name.split_whitespace().next()
    });
    for name in names.filter(|name| *name != "help") {
        commands(&[command, &[name.to_owned()]].concat(), found);
    }
}

#[test]
fn every_command_and_its_options_are_on_the_page_of_commands_and_no_others() {
    let page = read("docs/commands.md");
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    let mut all = Vec::new();
    commands(&[], &mut all);
    assert!(all.len() > 20, "{all:?}");
    // Said once, at the head of the page.
    let everywhere = ["--config", "--help", "--version", "--key-file", "--endpoint", "--json"];
    let mut missing = Vec::new();
    let mut known: BTreeSet<String> = everywhere.map(str::to_owned).into();
    for (words, help) in &all {
        let line = words.join(" ");
        let of_it: Vec<&&str> = sections
            .iter()
            .filter(|section| section.split_whitespace().next() == words.first().map(String::as_str))
            .filter(|section| section.contains(&line))
            .collect();
        if of_it.is_empty() {
            missing.push(format!("tokenward {line}"));
        }
        for flag in flags(help) {
            let is_there =
                everywhere.contains(&flag.as_str()) || of_it.iter().any(|section| section.contains(&flag));
            if !of_it.is_empty() && !is_there {
                missing.push(format!("tokenward {line} {flag}"));
            }
            known.insert(flag);
        }
    }
    assert!(missing.is_empty(), "not on the page: {missing:#?}");
    let (prose, _) = parts("docs/commands.md");
    let invented: Vec<&str> = code_spans(&prose)
        .into_iter()
        .filter_map(|span| span.split([' ', '=']).next())
        .filter(|span| span.starts_with("--") && !known.contains(*span))
        .collect();
    assert!(invented.is_empty(), "there are no such options: {invented:#?}");
}

#[test]
fn the_check_of_command_lines_finds_mistakes() {
    let mut known = BTreeMap::new();
    let mut of = |line: &str| {
        let lines = command_lines(line);
        assert_eq!(lines.len(), 1, "{line}");
        check(&lines[0], &mut known)
    };
    for good in [
        "tokenward token outlook user-4711 --json >/dev/null; echo $?",
        "curl -H \"Authorization: Bearer $(tokenward token outlook me)\"",
        "tokenward --config a.toml check   # words",
        "runuser -u x -- tokenward callers add-key mail-sync --expires-in 90d",
        "tokenward connections list|show",
    ] {
        assert_eq!(of(good), Ok(()), "{good}");
    }
    for bad in [
        "tokenward tokne outlook me",
        "tokenward token outlook me --jsonl",
        "tokenward token outlook me more",
        "tokenward keyring explode",
        "tokenward connections list|frob",
    ] {
        assert!(of(bad).is_err(), "{bad}");
    }
}

// -------------------------------------------------------------------------------------------------- what
// they show

/// A block that has a whole app is a whole file with what every file needs; a part is put into the rest of
/// one.
#[test]
fn every_toml_block_loads() {
    const APP: &str = "[apps.outlook]\nclient_id = \"11111111-2222-3333-4444-555555555555\"\nauthority = \
        \"https://login.microsoftonline.com/common/v2.0\"\n";
    let mut checked = 0;
    for document in &documents() {
        for (_, block) in parts(document).1.into_iter().filter(|(language, _)| language == "toml") {
            let section = |name: &str| block.lines().any(|line| line.trim() == name);
            let first = block.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
            let begins_inside = !first.unwrap_or_default().starts_with('[');
            let mut whole = String::new();
            if begins_inside || !section("[apps.outlook]") {
                whole.push_str(APP);
                if !block.contains("scopes = [\"off") {
                    whole.push_str("scopes = [\"offline_access\", \"Mail.Read\"]\n");
                }
            }
            whole.push_str(&block);
            if !whole.contains("credentials") {
                whole.push_str(
                    "\n[[apps.outlook.credentials]]\nid = \"a\"\nkind = \"secret\"\nfile = \"/a\"\n",
                );
            }
            let loaded =
                tokenward::config::load(&whole, &BTreeMap::new(), Path::new("/etc/tokenward/tokenward.toml"));
            if let Err(errors) = loaded {
                panic!("{document}:\n{whole}\n{errors}");
            }
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked}");
    for example in [
        "config/tokenward.toml",
        "config/embedded.toml",
        "config/redis.toml",
        "deploy/compose/tokenward.toml",
    ] {
        let loaded = tokenward::config::load(&read(example), &BTreeMap::new(), Path::new(example));
        assert!(
            loaded.is_ok(),
            "{example}: {}",
            loaded.err().map(|errors| errors.to_string()).unwrap_or_default()
        );
    }
}

// --------------------------------------------------------------------------------------------------- the API
// document

pub(crate) struct Document(Value);

impl Document {
    fn load() -> Self {
        Document::of("src/api/openapi.json")
    }

    pub(crate) fn of(file: &str) -> Self {
        Document(serde_json::from_str(&read(file)).expect("JSON"))
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').expect("a reference into the document");
                self.resolve(self.0.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere")))
            }
            None => value,
        }
    }

    /// What of a live answer the document does not say, or the other way round.
    fn mistakes(&self, schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
        let schema = self.resolve(schema);
        for part in schema["allOf"].as_array().into_iter().flatten() {
            // A part that only narrows says nothing of the members it does not mention.
            let part = self.resolve(part);
            if part.get("type").is_some() {
                self.mistakes(part, value, at, out);
            }
            for (name, narrowed) in part["properties"].as_object().into_iter().flatten() {
                if let Some(member) = value.get(name) {
                    self.mistakes(narrowed, member, &format!("{at}.{name}"), out);
                }
            }
        }
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            out.push(format!("{at}: {value} is not among {allowed:?}"));
        }
        let kinds = match &schema["type"] {
            Value::Array(kinds) => kinds.clone(),
            one => vec![one.clone()],
        };
        let fits = kinds.iter().any(|kind| match kind.as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("boolean") => value.is_boolean(),
            Some("null") => value.is_null(),
            _ => true,
        });
        if !fits {
            out.push(format!("{at}: {value} is no {}", schema["type"]));
        }
        if schema["format"] == "date-time"
            && !value.is_null()
            && value.as_str().and_then(tokenward::domain::time::Timestamp::parse_rfc3339).is_none()
        {
            out.push(format!("{at}: {value} is no instant"));
        }
        if let (Some(number), Some(least)) = (value.as_i64(), schema["minimum"].as_i64())
            && number < least
        {
            out.push(format!("{at}: {number} is less than {least}"));
        }
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if value.get(required).is_none() {
                out.push(format!("{at}: {required} is missing"));
            }
        }
        if let (Some(properties), Some(members)) = (schema["properties"].as_object(), value.as_object()) {
            for (name, member) in members {
                match properties.get(name) {
                    Some(property) => self.mistakes(property, member, &format!("{at}.{name}"), out),
                    None if schema.get("type").is_some() => {
                        out.push(format!("{at}: {name} is not documented"))
                    }
                    None => {}
                }
            }
        }
        if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
            for (number, item) in values.iter().enumerate() {
                self.mistakes(items, item, &format!("{at}[{number}]"), out);
            }
        }
    }

    fn response(&self, method: &str, path: &str, status: StatusCode) -> &Value {
        let operation = &self.0["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not documented");
        let response = &operation["responses"][status.as_str()];
        assert!(response.is_object(), "{method} {path} has no {status}");
        self.resolve(response)
    }

    /// Holds a live answer up against the document.
    pub(crate) fn fits(&self, method: &str, path: &str, answer: &Answer) {
        let response = self.response(method, path, answer.status);
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let Some(value) = answer.headers.get(name) else {
                assert!(
                    name == "Tokenward-Degraded",
                    "{method} {path} has no \
                    {name}"
                ); // only while something is wrong
                continue;
            };
            let value = value.to_str().expect("text");
            if self.resolve(header)["schema"]["type"] == "integer" {
                assert!(value.parse::<u64>().is_ok(), "{name}: {value}");
            }
        }
        let Some(content) = response["content"].as_object() else {
            assert!(answer.body.is_empty(), "{method} {path}: {}", answer.text());
            return;
        };
        let kind = answer.headers["content-type"].to_str().expect("text");
        let schema = content.get(kind).unwrap_or_else(|| panic!("{method} {path} is {kind}"));
        let mut mistakes = Vec::new();
        self.mistakes(&schema["schema"], &answer.json(), "$", &mut mistakes);
        assert!(mistakes.is_empty(), "{method} {path} {}: {mistakes:#?}\n{}", answer.status, answer.text());
    }
}

#[test]
fn the_codes_are_the_contract_s_in_the_document_and_in_the_code() {
    let document = Document::load();
    let contract: BTreeSet<&str> = CODES.iter().map(|(code, _)| *code).collect();
    let listed =
        document.0.pointer("/components/schemas/Code/enum").and_then(Value::as_array).expect("codes");
    let documented: BTreeSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    assert_eq!((documented, listed.len()), (contract.clone(), contract.len()));

    // The operators' document has some of them, and no others.
    let operators = Document::of("src/api/openapi-admin.json");
    let listed =
        operators.0.pointer("/components/schemas/Code/enum").and_then(Value::as_array).expect("codes");
    let others: Vec<&Value> =
        listed.iter().filter(|code| !code.as_str().is_some_and(|code| contract.contains(code))).collect();
    assert!(listed.len() > 5 && others.is_empty(), "{others:?}");

    // Each word of the map of refusals, and each `Problem::new(status, "code", …)`, wherever its lines break.
    let refusals = read("src/broker/refusal.rs");
    let map = refusals.split_once("pub fn outside(").expect("the map").1;
    let map = map.split_once("let seconds").expect("its end").0;
    let of_refusals = map.split('"').skip(1).step_by(2).map(str::to_owned);
    let others = read("src/api/problem.rs");
    let code_of = |call: &str| Some(call.split(')').next()?.split('"').nth(1)?.to_owned());
    let of_others = others.split("Problem::new(").skip(1).filter_map(code_of);
    let written: BTreeSet<String> = of_refusals.chain(of_others).collect();
    let written: BTreeSet<&str> = written.iter().map(String::as_str).collect();
    assert_eq!(written, contract);

    // And each stands under just the statuses it comes with.
    let mut under: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    for (_, operations) in document.0["paths"].as_object().expect("paths") {
        for (_, operation) in
            operations.as_object().expect("operations").iter().filter(|(name, _)| *name != "parameters")
        {
            for (status, response) in operation["responses"].as_object().expect("responses") {
                let schema = &document.resolve(response)["content"]["application/problem+json"]["schema"];
                for code in schema["allOf"][1]["properties"]["code"]["enum"].as_array().into_iter().flatten()
                {
                    let status = status.parse().expect("a status");
                    under.entry(code.as_str().expect("text").to_owned()).or_default().insert(status);
                }
            }
        }
    }
    for (code, statuses) in CODES {
        let documented: Vec<u16> = under.remove(code).unwrap_or_default().into_iter().collect();
        assert_eq!(documented, statuses, "{code}");
    }
    assert!(under.is_empty(), "{under:?}");
}

/// What `tokenward import` prints of a row that failed is the reason of the daemon's answer, or its code. The
/// table has each word, and none that is not one.
#[test]
fn the_reasons_of_an_import_are_in_its_table() {
    /// The command's own.
    const OWN: [&str; 2] = ["invalid_row", "duplicate"];
    /// Codes with no reason beside them that one row's answer can have.
    const CODES_ALONE: [&str; 10] = [
        "invalid_request",
        "app_not_found",
        "caller_forbidden",
        "connection_paused",
        "record_damaged",
        "authority_unavailable",
        "store_unavailable",
        "overloaded",
        "rate_limited",
        "internal",
    ];
    let page = read("docs/import.md");
    let table =
        page.split("\n## Reasons\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a table");
    let first = |row: &str| row.trim_start_matches('|').split('|').next().unwrap_or_default().to_owned();
    let cells: Vec<String> = table.lines().filter(|line| line.starts_with("| `")).map(first).collect();
    let named: BTreeSet<&str> = cells.iter().flat_map(|cell| code_spans(cell)).collect();
    let certain = OWN.into_iter().chain(ImportFault::WORDS).chain(CODES_ALONE);
    let certain: BTreeSet<&str> = certain.collect();
    let missing: Vec<&&str> = certain.difference(&named).collect();
    assert!(missing.is_empty(), "docs/import.md does not explain {missing:?}");
    // Of the authority's verdicts some stand for all.
    let is_verdict = |word: &&str| ReauthReason::WORDS.contains(word) || BlockReason::WORDS.contains(word);
    let unknown: Vec<&&str> = named.difference(&certain).filter(|word| !is_verdict(word)).collect();
    assert!(unknown.is_empty(), "docs/import.md explains {unknown:?}, which is no reason");
    assert!(CODES_ALONE.iter().all(|code| CODES.iter().any(|(known, _)| known == code)));
}

#[test]
fn the_sites_summary_has_every_page() {
    let summary = read("docs/SUMMARY.md");
    let folder = std::fs::read_dir(repository().join("docs")).expect("a folder");
    let names = folder.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let left: Vec<String> = names
        .filter(|name| {
            name.ends_with(".md") && name != "SUMMARY.md" && !summary.contains(&format!("({name})"))
        })
        .collect();
    assert!(left.is_empty(), "docs/SUMMARY.md leaves out {left:?}");
}

#[test]
fn the_page_of_the_audit_has_every_word_of_it() {
    let page = read("docs/audit.md");
    let section = |title: &str| {
        let rest = page.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("{title}")).1;
        rest.split("\n## ").next().unwrap_or_default().to_owned()
    };
    let mut in_code: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut is_in = |title: &'static str, word: &str| {
        assert!(section(title).contains(&format!("`{word}`")), "{word} is not in docs/audit.md, {title}");
        in_code.entry(title).or_default().insert(word.to_owned());
    };
    CODES.iter().for_each(|(code, _)| is_in("Codes", code));
    // All, and the one that only sums have.
    let strangers = Stranger::all().chain([Stranger::Jwts]);
    strangers.for_each(|stranger| is_in("Reasons of strangers", stranger.reason()));
    let document = Document::load();
    for schema in ["ConnectSessionState", "AdminConsentState"] {
        let pointer = format!("/components/schemas/{schema}/properties/reason/enum");
        let reasons = document.0.pointer(&pointer).and_then(Value::as_array).expect("reasons");
        reasons.iter().for_each(|reason| is_in("Reasons of sessions", reason.as_str().expect("text")));
    }
    // Every action that something in the source reports.
    let reports = [
        "src/events.rs",
        "src/events/strangers.rs",
        "src/events/relayed.rs",
        "src/events/handles.rs",
        "src/app/mod.rs",
        "src/app/parts.rs",
        "src/telemetry/audit/writer.rs",
    ];
    let reports = reports.map(read).concat();
    let word_of = |name: &str| {
        name.char_indices().fold(String::new(), |word, (at, c)| {
            let joint = if at > 0 && c.is_ascii_uppercase() { "_" } else { "" };
            format!("{word}{joint}{}", c.to_ascii_lowercase())
        })
    };
    for action in reports.split("Action::").skip(1) {
        let name = action.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        is_in("Actions", &word_of(name));
    }
    // And nothing else is an action: one that nobody reports is a promise that is not kept.
    let record = read("src/telemetry/audit/record.rs");
    let actions = record.split_once("pub enum Action {").expect("the actions").1;
    for line in actions.lines().map(str::trim).take_while(|line| *line != "}") {
        if let Some(action) = line.strip_suffix(',') {
            assert!(reports.contains(&format!("Action::{action}")), "nothing reports {action}");
        }
    }
    let keys = serde_json::to_value(AuditEvent::new(Timestamp::from_unix_seconds(0), Action::Token, "ok"))
        .expect("JSON");
    keys.as_object().expect("members").keys().for_each(|key| is_in("Keys", key));

    // The other way round: what these sections explain is a word of the code.
    let actions = section("Actions");
    let heads =
        actions.lines().filter_map(|line| line.strip_prefix("- `")?.split_once("`:")).map(|(head, _)| head);
    let codes = section("Codes");
    let codes = code_spans(&codes).into_iter().filter(|span| {
        span.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') && *span != "fail_closed"
    });
    let reasons = section("Reasons of strangers");
    let cells = reasons.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    let cells: Vec<&str> =
        cells.flat_map(|(words, _)| words.split("`, `")).map(|word| word.trim_matches('`')).collect();
    let explained = [
        ("Actions", heads.flat_map(|head| head.split("`, `")).collect::<Vec<_>>()),
        ("Codes", codes.collect()),
        ("Reasons of strangers", cells),
    ];
    for (title, words) in explained {
        assert!(words.len() > 10, "{title}: {words:?}");
        let other: Vec<&&str> = words.iter().filter(|word| !in_code[title].contains(**word)).collect();
        assert!(other.is_empty(), "{title}: no such word in the code: {other:?}");
    }
}

const TOKEN: &str = "/v1/apps/{app}/connections/{connection}/token";
const CONNECTION: &str = "/v1/apps/{app}/connections/{connection}";
const EXPLAIN: &str = "/v1/apps/{app}/connections/{connection}/explain";
const CONNECTIONS: &str = "/v1/apps/{app}/connections";
const SESSIONS: &str = "/v1/connect-sessions";
const SESSION: &str = "/v1/connect-sessions/{id}";
const CONFIRM: &str = "/v1/connect-sessions/{id}/confirm";
const CONSENTS: &str = "/v1/admin-consent-sessions";
const CONSENT: &str = "/v1/admin-consent-sessions/{id}";

/// Calls as the first caller, holds the answer up against the document, and gives it back.
async fn call(
    world: &World,
    document: &Document,
    method: Method,
    path: &str,
    target: &str,
    body: Value,
) -> Answer {
    let answer = world.api(method.clone(), target, body).await;
    document.fits(&method.as_str().to_ascii_lowercase(), path, &answer);
    answer
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), text(&answer.json(), "code").to_owned())
}

#[tokio::test]
async fn the_daemon_serves_the_document_and_the_main_job_fits_it() {
    let document = Document::load();
    let world = Plan::default().token_life(Duration::from_secs(600)).start().await;
    let served = request(Method::GET, &format!("{}/openapi.json", world.daemon.local), &[], "")
        .await
        .expect("an answer");
    assert_eq!(served.text(), read("src/api/openapi.json"), "to anybody, byte for byte");
    document.fits("get", "/openapi.json", &served);

    // Connect.
    world.entra.sign_in_as(ALICE);
    let body = json!({
        "app": "outlook", "connection": "team-a/alice", "scopes": ["User.Read", "Mail.Read"],
        "login_hint": ALICE,
    });
    let started = call(&world, &document, Method::POST, SESSIONS, SESSIONS, body).await;
    assert_eq!(started.status, 201);
    let session = started.json();
    let at = format!("{SESSIONS}/{}", text(&session, "id"));
    let pending = call(&world, &document, Method::GET, SESSION, &at, Value::Null).await;
    assert_eq!(pending.json()["state"], "pending");
    let confirm = format!("{at}/confirm");
    let early = call(&world, &document, Method::POST, CONFIRM, &confirm, json!({ "code": "none" })).await;
    assert_eq!(code(&early), (409, "confirmation_rejected".into()));
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    let waiting =
        call(&world, &document, Method::GET, SESSION, &format!("{at}?wait=60"), Value::Null).await.json();
    assert_eq!(waiting["state"], "awaiting_confirmation");
    let account = json!({ "account": waiting["account"] });
    let confirmed = call(&world, &document, Method::POST, CONFIRM, &confirm, account).await;
    assert_eq!(confirmed.status, 200, "an account can be sent back as it was shown: {}", confirmed.text());
    let state = call(&world, &document, Method::GET, SESSION, &at, Value::Null).await.json();
    assert_eq!(state["state"], "connected");

    // Hand out, and what is wrong with asking.
    let token = "/v1/apps/outlook/connections/team-a%2Falice/token";
    let first = call(&world, &document, Method::GET, TOKEN, token, Value::Null).await.json();
    let digest = sha256(text(&first, "access_token"));
    let second =
        call(&world, &document, Method::POST, TOKEN, token, json!({ "rejected": digest })).await.json();
    assert_ne!(first["access_token"], second["access_token"]);
    for query in ["min_ttl=1", "min_ttl=60&min_ttl=60", "access_token=x", "scope=%22"] {
        let refused =
            call(&world, &document, Method::GET, TOKEN, &format!("{token}?{query}"), Value::Null).await;
        assert_eq!(code(&refused), (400, "invalid_request".into()), "{query}");
    }
    let unknown = call(&world, &document, Method::POST, TOKEN, token, json!({ "min_tll": 60 })).await;
    assert_eq!(code(&unknown), (400, "invalid_request".into()));
    let missing =
        call(&world, &document, Method::GET, TOKEN, &format!("{token}?scope=Contacts.Read"), Value::Null)
            .await;
    assert_eq!(code(&missing), (409, "scope_not_granted".into()));
    let long = call(
        &world,
        &document,
        Method::GET,
        TOKEN,
        &format!("{token}?scope={}", "a".repeat(9000)),
        Value::Null,
    )
    .await;
    assert_eq!(code(&long), (414, "invalid_request".into()));
    let nobody = "/v1/apps/outlook/connections/nobody";
    let none =
        call(&world, &document, Method::GET, TOKEN, &format!("{nobody}/token?connect=1"), Value::Null).await;
    assert_eq!(code(&none), (404, "connection_not_found".into()));
    assert!(none.json()["connect_url"].is_string());
    let other = "/v1/apps/other/connections/nobody/token";
    assert_eq!(
        code(&call(&world, &document, Method::GET, TOKEN, other, Value::Null).await),
        (404, "app_not_found".into())
    );

    // As somebody else, and as nobody.
    let reader = world
        .api_as(
            &world.reader_key,
            Method::GET,
            "/v1/apps/outlook/connections/team-b%2Fx/token?scope=Mail.Send",
            Value::Null,
        )
        .await;
    document.fits("get", TOKEN, &reader);
    let forbidden = world
        .api_as(
            &world.reader_key,
            Method::POST,
            SESSIONS,
            json!({ "app": "outlook", "connection": "team-b/x" }),
        )
        .await;
    document.fits("post", SESSIONS, &forbidden);
    assert_eq!(code(&forbidden), (403, "caller_forbidden".into()));
    let stranger = world.api_as("twk_nobody", Method::GET, token, Value::Null).await;
    document.fits("get", TOKEN, &stranger);
    assert_eq!(code(&stranger), (401, "caller_unauthenticated".into()));

    // Look, list, end.
    let connection = "/v1/apps/outlook/connections/team-a%2Falice";
    let shown = call(&world, &document, Method::GET, CONNECTION, connection, Value::Null).await.json();
    assert!(shown["next_refresh_at"].is_string());
    let explained =
        call(&world, &document, Method::GET, EXPLAIN, &format!("{connection}/explain"), Value::Null)
            .await
            .json();
    assert!(explained["attempts"].as_array().is_some_and(|attempts| attempts.len() >= 2));
    let page = "/v1/apps/outlook/connections";
    call(&world, &document, Method::GET, CONNECTIONS, page, Value::Null).await;
    let refused =
        call(&world, &document, Method::GET, CONNECTIONS, &format!("{page}?status=fine"), Value::Null).await;
    assert_eq!(code(&refused), (400, "invalid_request".into()));
    assert_eq!(
        call(&world, &document, Method::DELETE, CONNECTION, connection, Value::Null).await.status,
        204
    );
    assert_eq!(
        call(&world, &document, Method::DELETE, CONNECTION, connection, Value::Null).await.status,
        404
    );

    // Administrators.
    let asked = json!({ "app": "outlook", "tenant": "contoso.example" });
    let consent = call(&world, &document, Method::POST, CONSENTS, CONSENTS, asked).await;
    assert_eq!(consent.status, 201);
    let at = format!("{CONSENTS}/{}", text(&consent.json(), "id"));
    call(&world, &document, Method::GET, CONSENT, &at, Value::Null).await;
    let gone = call(&world, &document, Method::GET, CONSENT, &format!("{CONSENTS}/none"), Value::Null).await;
    assert_eq!(code(&gone), (404, "session_not_found".into()));

    // Methods and paths that are none.
    let wrong = world.api(Method::PUT, token, Value::Null).await;
    assert_eq!(
        (code(&wrong), wrong.headers["allow"].to_str().ok()),
        ((405, "method_not_allowed".into()), Some("GET, POST"))
    );
    assert_eq!(code(&world.api(Method::GET, "/v2", Value::Null).await), (404, "not_found".into()));
}

#[tokio::test]
async fn verdicts_and_trouble_fit_the_document() {
    let document = Document::load();
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    world.connect("bob", BOB).await;
    let target = |name: &str| format!("/v1/apps/outlook/connections/{name}");

    // The authority is away, then the app's credential is rejected: nobody's connection changes.
    world.outlive_tokens();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::aadsts(90033)));
    let away =
        call(&world, &document, Method::GET, TOKEN, &format!("{}/token", target("alice")), Value::Null).await;
    assert_eq!(code(&away), (503, "authority_unavailable".into()));
    world.entra.faults().clear();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::aadsts(7000222)));
    let rejected =
        call(&world, &document, Method::GET, TOKEN, &format!("{}/token", target("bob")), Value::Null).await;
    assert_eq!(code(&rejected), (503, "app_credential_rejected".into()));
    assert_eq!(rejected.json()["error_codes"], json!([7000222]));
    for name in ["alice", "bob"] {
        let explained =
            call(&world, &document, Method::GET, EXPLAIN, &format!("{}/explain", target(name)), Value::Null)
                .await;
        assert_eq!(explained.json()["status"], "active", "{}", explained.text());
    }
    world.entra.faults().clear();

    // Verdicts.
    world.entra.revoke_user(ALICE, RevokeKind::GrantRevoked).expect("known");
    world.entra.revoke_user(BOB, RevokeKind::ConditionalAccess).expect("known");
    for (name, expected) in [("alice", "reauthorization_required"), ("bob", "connection_blocked")] {
        let token = format!("{}/token?connect=1", target(name));
        let asks = async || call(&world, &document, Method::GET, TOKEN, &token, Value::Null).await;
        world.until(expected, async || code(&asks().await) == (409, expected.to_owned())).await;
        assert_eq!(asks().await.json()["connect_url"].is_string(), name == "alice");
        let shown = call(&world, &document, Method::GET, CONNECTION, &target(name), Value::Null).await.json();
        assert!(shown["reason"].is_string() && shown["last_error"]["error_codes"].is_array(), "{shown}");
        call(&world, &document, Method::GET, EXPLAIN, &format!("{}/explain", target(name)), Value::Null)
            .await;
    }
}

pub(crate) fn sha256(text: &str) -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
