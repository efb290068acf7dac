//! The look of the pages for users: from the configuration and the files that it names.

use std::path::Path;

use super::findings::Findings;
use crate::config::Config;
use crate::public::{LARGEST_LOGO, LanguageFinding, Languages, Logo, Look};
use crate::secret_file::SecretReader;

/// Largest file of a language, in bytes.
const LARGEST_LANGUAGE: usize = 256 * 1024;
/// Most files of languages.
const MOST_LANGUAGES: usize = 100;

/// Reads the logo and the languages. A file that is wrong is left out and is a warning, never a mistake: a
/// picture or a text must not hold up a start, or a reload that brings a new secret.
pub(super) fn prepare(config: &Config, secrets: &SecretReader, findings: &mut Findings<'_>) -> Look {
    let pages = &config.pages;
    let logo = pages.logo.as_ref().and_then(|path| {
        let logo = read(path, LARGEST_LOGO, secrets)
            .and_then(|content| Logo::read(content).map_err(|what| format!("{} {what}", path.display())));
        logo.map_err(|problem| findings.warning("pages.logo", problem)).ok()
    });
    let mut languages = Languages::default();
    if let Some(folder) = &pages.languages_dir {
        add_languages(folder, &mut languages, secrets, findings);
    }
    let names = config.callers.iter().filter_map(|(name, caller)| {
        let display_name = caller.display_name.clone()?;
        Some((name.clone(), display_name))
    });
    Look {
        company: pages.name.clone(),
        logo,
        support: pages.support.clone(),
        languages,
        callers: names.collect(),
    }
}

fn add_languages(
    folder: &Path,
    languages: &mut Languages,
    secrets: &SecretReader,
    findings: &mut Findings<'_>,
) {
    const KEY: &str = "pages.languages_dir";
    let files = match secrets.guard().folder(folder).map_err(|error| error.to_string()).and_then(|folder| {
        folder.entries().map_err(|error| format!("cannot read {}: {error}", folder.path().display()))
    }) {
        Ok(files) => files,
        Err(problem) => return findings.warning(KEY, problem),
    };
    let is_hidden =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut files: Vec<_> = files.into_iter().filter(|path| !is_hidden(path)).collect();
    files.sort();
    if files.len() > MOST_LANGUAGES {
        findings.warning(KEY, format_args!("{} holds more than {MOST_LANGUAGES} files", folder.display()));
        return;
    }
    for path in files {
        let is_toml = path.extension().is_some_and(|extension| extension == "toml");
        let Some(tag) = path.file_stem().and_then(|stem| stem.to_str()).filter(|_| is_toml) else {
            let what = "is no language: name the file like `fr.toml`";
            findings.warning(KEY, format_args!("{} {what}", path.display()));
            continue;
        };
        let text = read(&path, LARGEST_LANGUAGE, secrets).and_then(|content| {
            String::from_utf8(content).map_err(|_| format!("{} is not UTF-8", path.display()))
        });
        let found = match text {
            Ok(text) => languages.add(tag, &text),
            Err(problem) => {
                findings.warning(KEY, problem);
                continue;
            }
        };
        for finding in found {
            match finding {
                LanguageFinding::Wrong(what) => {
                    findings.warning(KEY, format_args!("{}: {what}", path.display()))
                }
                LanguageFinding::Missing(texts) => findings.warning(
                    KEY,
                    format_args!(
                        "{} lacks texts, which are shown in English: {}",
                        path.display(),
                        texts.join(", ")
                    ),
                ),
            }
        }
    }
}

/// Reads a file that anybody may read and only root and the daemon's user may change.
fn read(path: &Path, largest: usize, secrets: &SecretReader) -> Result<Vec<u8>, String> {
    let content = secrets.guard().read(path, largest + 1).map_err(|error| error.to_string())?;
    match content.len() {
        length if length > largest => {
            Err(format!("cannot read {}: it is longer than {} KiB", path.display(), largest / 1024))
        }
        _ => Ok(content),
    }
}
