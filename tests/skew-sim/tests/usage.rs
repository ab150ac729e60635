//! The program says how it is to be used.

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skew-sim"));
    command.args(arguments).output().unwrap()
}

#[test]
fn help_is_no_mistake_and_a_mistake_is_told() {
    for help in ["--help", "-h"] {
        let said = run(&[help]);
        assert_eq!(said.status.code(), Some(0), "{help}: {said:?}");
        let told = String::from_utf8(said.stdout).unwrap();
        assert!(told.contains("Usage: skew-sim "), "{told}");
        assert_eq!(said.stderr, b"", "{help}");
    }
    for wrong in [&["--nonsense"][..], &["--days"], &["--seed", "x"]] {
        let said = run(wrong);
        assert_eq!(said.status.code(), Some(2), "{wrong:?}: {said:?}");
        assert_eq!(said.stdout, b"", "{wrong:?}");
        let told = String::from_utf8(said.stderr).unwrap();
        assert!(told.contains(wrong[0]) && told.contains("--help"), "{told}");
    }
}
