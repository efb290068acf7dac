//! `completions` and `man`: what a shell and `man` know of the commands, made from the commands themselves.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, ValueEnum};
use clap_complete::aot::{self, generate};
use clap_mangen::Man;

use super::{Cli, Failure, World};

/// The program's name, as shells complete it.
const NAME: &str = "tokenward";

/// A shell that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// GNU Bash
    Bash,
    /// Zsh
    Zsh,
    /// fish
    Fish,
}

/// Whose completions.
#[derive(clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Where the pages go.
#[derive(clap::Args)]
pub(super) struct ManArgs {
    /// A directory, such as /usr/local/share/man/man1, made if missing; pages of these names are replaced
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints a shell's completions.
pub(super) fn completions(args: &CompletionsArgs, world: &mut World) -> Result<(), Failure> {
    let (mut command, mut script) = (Cli::command(), Vec::new());
    match args.shell {
        Shell::Bash => generate(aot::Bash, &mut command, NAME, &mut script),
        Shell::Zsh => generate(aot::Zsh, &mut command, NAME, &mut script),
        Shell::Fish => generate(aot::Fish, &mut command, NAME, &mut script),
    }
    world.output.generated(&script)
}

/// Writes the man pages, one for each command, and prints their paths.
pub(super) fn man(args: &ManArgs, world: &mut World) -> Result<(), Failure> {
    let mut command = Cli::command();
    // It gives each command its whole name.
    command.build();
    let mut written = Vec::new();
    std::fs::create_dir_all(&args.directory)
        .map_err(|error| Failure::failed(format!("cannot make {}: {error}", args.directory.display())))?;
    write_page(&command, &args.directory, &mut written)?;
    world.output.data(&written.join("\n"))
}

fn write_page(command: &clap::Command, directory: &Path, written: &mut Vec<String>) -> Result<(), Failure> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = directory.join(format!("{name}.1"));
    let mut text = Vec::new();
    let rendered =
        Man::new(command.clone()).manual(NAME).render(&mut text).and_then(|()| std::fs::write(&path, &text));
    rendered.map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
    written.push(path.display().to_string());
    command.get_subcommands().try_for_each(|below| write_page(below, directory, written))
}
