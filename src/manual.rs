//! The manual pages and shell completions of all programs, from the definitions that `--help` shows.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use crate::{cli, gate};

/// The section of system administration.
const SECTION: &str = "8";

/// All programs.
pub fn programs() -> Vec<Command> {
    vec![cli::command(), gate::cli::command(), keeper(), hook(), agent()]
}

/// `rolegate-keeper`.
pub fn keeper() -> Command {
    Command::new("rolegate-keeper").version(env!("CARGO_PKG_VERSION")).about(
        "Holds the write leases of this node's Redis gates. Run by systemd (rolegate-keeper.service), as root, from boot to halt; takes \
         its settings from /etc/rolegate/rolegate.toml and everything else from the cluster",
    )
}

/// `rolegate-hook`.
pub fn hook() -> Command {
    let names = ["master-name", "role", "state", "from-ip", "from-port", "to-ip", "to-port"];
    Command::new("rolegate-hook")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Makes the node attribute redis_role follow what a majority of Sentinels says now. Run by Sentinel, as its \
             client-reconfig-script; which server it names in its arguments is a hint and nothing more",
        )
        .args(names.map(|name| Arg::new(name).required_unless_present("check")))
        .arg(
            Arg::new("check")
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Try all that a run needs, change nothing, and say what is wrong; rolegate doctor runs this as Sentinel would"),
        )
        .after_help(
            "Exit codes: 0 done, 1 to be tried again (Sentinel does so after 30 s, 60 s, ...), 2 never works so.",
        )
}

/// `rolegate-agent`.
pub fn agent() -> Command {
    Command::new("rolegate-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "The OCF agents ocf:rolegate:gate and ocf:rolegate:block. Run by Pacemaker, as root. pcs resource describe \
             ocf:rolegate:gate shows their parameters",
        )
        .arg(
            Arg::new("action")
                .required(true)
                .help("start, stop, monitor, promote, demote, notify, validate-all, meta-data or methods"),
        )
        .after_help("Exit codes: those of the OCF resource agent API 1.1; 190 and 191: works less well than it should.")
}

/// Prints the help or the version where that is asked for by the first argument, for a program whose caller knows no options. Says
/// whether it was.
pub fn answers(command: Command, argv: impl IntoIterator<Item = OsString>) -> bool {
    let argv: Vec<OsString> = argv.into_iter().take(2).collect();
    let asked = argv.get(1).and_then(|argument| argument.to_str());
    if !matches!(asked, Some("-h" | "--help" | "-V" | "--version")) {
        return false;
    }
    if let Err(shown) = command.try_get_matches_from(argv) {
        let _closed = shown.print();
    }
    true
}

/// Writes all of them below `root`, where Debian has them. Gives the files.
///
/// # Errors
/// The system's.
pub fn write(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut file = |path: PathBuf, text: Vec<u8>| -> io::Result<()> {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(&path, text)?;
        written.push(path);
        Ok(())
    };
    for mut program in programs() {
        program.build();
        let name = program.get_name().to_owned();
        for (name, page) in pages(&program, &name)? {
            file(format!("usr/share/man/man{SECTION}/{name}.{SECTION}").into(), page)?;
        }
        // Nobody types these.
        if ["rolegate-hook", "rolegate-agent", "rolegate-keeper"].contains(&name.as_str()) {
            continue;
        }
        for (shell, path) in [
            (Shell::Bash, format!("usr/share/bash-completion/completions/{name}")),
            (Shell::Zsh, format!("usr/share/zsh/vendor-completions/_{name}")),
            (Shell::Fish, format!("usr/share/fish/vendor_completions.d/{name}.fish")),
        ] {
            let mut text = Vec::new();
            generate(shell, &mut program.clone(), &name, &mut text);
            file(path.into(), text)?;
        }
    }
    Ok(written)
}

/// The page of a program and those of its commands.
fn pages(command: &Command, name: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut page = Vec::new();
    // What a page is called stands in its head and first line.
    Man::new(command.clone().display_name(name.to_owned())).section(SECTION).render(&mut page)?;
    let mut pages = vec![(name.to_owned(), page)];
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        pages.extend(self::pages(inner, &format!("{name}-{}", inner.get_name()))?);
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(command: &mut Command, look: &mut impl FnMut(&mut Command)) {
        look(command);
        command.get_subcommands_mut().for_each(|inner| each(inner, look));
    }

    #[test]
    fn the_help_of_every_program_fits_a_screen() {
        for mut program in programs() {
            program.clone().debug_assert();
            program = program.term_width(80);
            program.build();
            each(&mut program, &mut |command| {
                let help = command.render_help().to_string();
                assert!(help.lines().count() <= 24, "{}:\n{help}", command.get_name());
                assert!(command.get_about().is_some(), "{}", command.get_name());
            });
        }
    }

    #[test]
    fn pages_and_completions_are_where_debian_looks_for_them() {
        let root = tempfile::tempdir().unwrap();
        let written = write(root.path()).unwrap();
        let read = |path: &str| {
            assert!(written.contains(&root.path().join(path)), "no {path} in {written:?}");
            fs::read_to_string(root.path().join(path)).unwrap()
        };
        let page = read("usr/share/man/man8/rolegate-status.8");
        assert!(page.contains(".TH rolegate-status 8") && page.contains("\\-\\-watch"), "{page}");
        let page = read("usr/share/man/man8/rolegate.8");
        assert!(page.contains("rolegate\\-status(8)") && !page.contains("generate"), "{page}");
        for program in ["rolegate-port", "rolegate-keeper", "rolegate-hook", "rolegate-agent"] {
            read(&format!("usr/share/man/man8/{program}.8"));
        }
        let completion = read("usr/share/bash-completion/completions/rolegate");
        assert!(completion.contains("--no-") || completion.contains("--watch"), "{completion}");
        read("usr/share/zsh/vendor-completions/_rolegate-port");
        read("usr/share/fish/vendor_completions.d/rolegate.fish");
    }

    #[test]
    fn help_is_answered_and_nothing_else_is() {
        let asked = |argument: &str| answers(hook(), ["rolegate-hook", argument].map(OsString::from));
        assert!(asked("--help") && asked("-V"));
        assert!(!asked("mymaster") && !asked("monitor") && !answers(hook(), ["rolegate-hook".into()]));
    }
}
