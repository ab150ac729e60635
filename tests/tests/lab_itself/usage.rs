//! Help and usage errors of the programs.

use std::process::{Command, Output};

fn run(binary: &str, argument: &str) -> Output {
    Command::new(binary).arg(argument).output().unwrap()
}

#[test]
fn help_succeeds_and_invalid_arguments_fail() {
    for (name, binary) in [
        ("bench", env!("CARGO_BIN_EXE_bench")),
        ("demo", env!("CARGO_BIN_EXE_demo")),
        ("outage", env!("CARGO_BIN_EXE_outage")),
        ("overrun-server", env!("CARGO_BIN_EXE_overrun-server")),
    ] {
        let usage = format!("Usage: {name} ");
        for help in ["--help", "-h"] {
            let said = run(binary, help);
            assert_eq!(said.status.code(), Some(0), "{name} {help}: {said:?}");
            let told = String::from_utf8(said.stdout).unwrap();
            assert!(told.contains(&usage), "{told}");
            assert_eq!(said.stderr, b"", "{name} {help}");
        }
        let said = run(binary, "--nonsense");
        assert_eq!(said.status.code(), Some(2), "{name}: {said:?}");
        assert_eq!(said.stdout, b"", "{name}");
        let told = String::from_utf8(said.stderr).unwrap();
        assert!(
            told.contains("--nonsense") && told.contains(&usage),
            "{told}"
        );
    }
}
