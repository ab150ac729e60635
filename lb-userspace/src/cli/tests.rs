//! The command line as a whole.

use super::*;
use lb_api::Guard;

fn parse(text: &str) -> Result<Cli, clap::Error> {
    super::parse(text.split_whitespace().map(OsString::from))
}

/// Every command without subcommands (and `alerts`), with its full name.
fn commands() -> Vec<(String, clap::Command)> {
    fn collect(command: &clap::Command, name: &str, all: &mut Vec<(String, clap::Command)>) {
        let below: Vec<_> = command
            .get_subcommands()
            .filter(|command| command.get_name() != "help")
            .collect();
        if below.is_empty() || command.get_name() == "alerts" {
            all.push((name.trim().to_owned(), command.clone()));
        }
        for command in below {
            collect(command, &format!("{name} {}", command.get_name()), all);
        }
    }
    let mut all = Vec::new();
    collect(&command(), "", &mut all);
    all
}

#[test]
fn passes_claps_own_checks() {
    command().debug_assert();
}

#[test]
fn simulate_needs_exactly_one_input() {
    parse("evenkeel simulate --config f --flows 10 --seed 3 --trace --json").unwrap();
    parse("evenkeel simulate --config f --pcap in --write out").unwrap();
    parse("evenkeel simulate --config f").unwrap_err();
    parse("evenkeel simulate --config f --flows 1 --pcap in").unwrap_err();
    parse("evenkeel simulate --config f --pcap in --seed 3").unwrap_err();
}

/// Add a command that prints no data to the list.
#[test]
fn every_command_that_prints_data_has_json() {
    const WITHOUT_DATA: [&str; 5] = ["run", "capture", "unload", "completions", "man"];
    for (name, command) in commands() {
        let has = command
            .get_arguments()
            .any(|arg| arg.get_long() == Some("json"));
        let expected = !WITHOUT_DATA.contains(&name.as_str());
        assert_eq!(has, expected, "evenkeel {name}");
    }
}

#[test]
fn every_command_and_option_has_help() {
    for (name, command) in commands() {
        assert!(command.get_about().is_some(), "evenkeel {name}");
        for argument in command.get_arguments() {
            let id = argument.get_id();
            assert!(argument.get_help().is_some(), "evenkeel {name}: {id}");
        }
    }
}

#[test]
fn exit_codes_are_in_the_help_and_in_the_docs() {
    let help = command().render_long_help().to_string();
    let page = include_str!("../../../docs/operations.md");
    let codes = [
        exit::REFUSED,
        exit::ROLLED_BACK,
        exit::USAGE,
        exit::INTERRUPTED,
    ];
    for code in [0, 1, exit::CHANGES].into_iter().chain(codes) {
        assert!(help.contains(&format!("\n  {code} ")), "{code} in\n{help}");
        assert!(
            page.contains(&format!("\n| {code} |")),
            "docs/operations.md lacks {code}"
        );
    }
    assert_ne!(exit::CHANGES, exit::USAGE, "scripts must tell them apart");
}

#[test]
fn every_command_is_in_the_docs() {
    let page = concat!(
        include_str!("../../../docs/operations.md"),
        include_str!("../../../README.md")
    );
    for (name, _) in commands() {
        assert!(
            page.contains(&format!("evenkeel {name}")),
            "the docs lack evenkeel {name}"
        );
    }
}

#[test]
fn every_command_has_a_manual_page_that_its_parent_refers_to() {
    let pages = man::pages(command()).unwrap();
    let page = |name: &str| {
        let found = pages.iter().find(|(page, _)| page == name);
        let (_, text) = found.unwrap_or_else(|| panic!("no page {name}"));
        String::from_utf8(text.clone()).unwrap().replace("\\-", "-")
    };
    for (name, _) in commands() {
        let name = format!("evenkeel-{}", name.replace(' ', "-"));
        let text = page(&name);
        assert!(
            text.contains("NAME") && text.contains("--help"),
            "{name}:\n{text}"
        );
        let (above, _) = name.rsplit_once('-').unwrap();
        assert!(
            page(above).contains(&name),
            "{name} is not in {above}:\n{}",
            page(above)
        );
    }
}

#[test]
fn completions_have_every_command() {
    use clap_complete::Shell;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command(), "evenkeel", &mut text);
        let text = String::from_utf8(text).unwrap();
        for (name, _) in commands() {
            let word = name.rsplit(' ').next().unwrap();
            assert!(text.contains(word), "{shell}: {name}");
        }
    }
}

#[test]
fn parses_the_names_of_guards() {
    let cli = parse("evenkeel apply f --force max_share --force max_moved --confirm 5m").unwrap();
    let Command::Apply(args) = cli.command else {
        panic!("{cli:?}");
    };
    assert_eq!(args.change.force, [Guard::MaxShare, Guard::MaxMoved]);
    let error = parse("evenkeel apply f --force everything").unwrap_err();
    assert!(error.to_string().contains("share_error"), "{error}");
}

#[test]
fn accepts_the_socket_before_or_after_the_command() {
    for line in ["evenkeel --socket /s status", "evenkeel status --socket /s"] {
        assert_eq!(
            parse(line).unwrap().socket,
            Some(PathBuf::from("/s")),
            "{line}"
        );
    }
    for line in [
        "evenkeel vip list --socket /s",
        "evenkeel vip --socket /s list",
    ] {
        assert_eq!(
            parse(line).unwrap().socket,
            Some(PathBuf::from("/s")),
            "{line}"
        );
    }
}

#[test]
fn only_commands_that_use_the_socket_have_the_option() {
    let mut whole = command();
    whole.build();
    for sub in whole
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        let name = sub.get_name();
        let has = sub
            .clone()
            .render_long_help()
            .to_string()
            .contains("--socket");
        let wanted = !LOCAL.contains(&name) || name == "run";
        assert_eq!(has, wanted, "evenkeel {name}");
    }
    for line in [
        "evenkeel check f --socket /s",
        "evenkeel --socket /s check f",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn run_creates_the_socket_of_the_command_line() {
    for line in [
        "evenkeel run --socket /s",
        "evenkeel --socket /s run",
        "evenkeel --socket /other run --socket /s",
    ] {
        let Command::Run(args) = parse(line).unwrap().command else {
            panic!("{line}")
        };
        assert_eq!(args.socket, Some(PathBuf::from("/s")), "{line}");
    }
}

#[test]
fn rejects_invalid_command_lines() {
    for line in [
        "evenkeel apply",
        "evenkeel apply f --confirm 5",
        "evenkeel apply f --confirm 0s",
        "evenkeel apply f --dry-run --confirm 5m",
        "evenkeel diff",
        "evenkeel diff one",
        "evenkeel backend drain a/b/c",
        "evenkeel backend drain a --idle 5s",
        "evenkeel backend weight a -1",
        "evenkeel vip add web 203.0.113.20:80/tcp --forward nat",
        "evenkeel vip add web 203.0.113.20 --forward nat --backend a=10.0.0.1",
        "evenkeel alerts --json list",
        "evenkeel events --limit 0",
    ] {
        assert!(parse(line).unwrap_err().use_stderr(), "{line}");
    }
}

#[test]
fn the_examples_in_the_help_are_valid() {
    for (name, command) in commands() {
        let help = command.get_after_help().map(ToString::to_string);
        for line in help.unwrap_or_default().replace("\\\n", " ").lines() {
            for part in line.split(['|', '#', '&', ';', '>']) {
                let part = part.trim();
                // Quoted arguments contain spaces.
                if part.starts_with("evenkeel ") && !part.contains(['\'', '~']) {
                    let parsed = parse(part);
                    assert!(parsed.is_ok(), "{name}: {part}: {parsed:?}");
                }
            }
        }
    }
}
