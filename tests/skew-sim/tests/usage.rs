//! Help and usage errors.

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
fn help_exits_with_0_and_usage_errors_with_2() {
    for help in ["--help", "-h"] {
        let output = run(&[help]);
        assert_eq!(output.status.code(), Some(0), "{help}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Usage: skew-sim "), "{text}");
        assert_eq!(output.stderr, b"", "{help}");
    }
    for wrong in [&["--nonsense"][..], &["--days"], &["--seed", "x"]] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
        assert_eq!(output.stdout, b"", "{wrong:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(wrong[0]) && text.contains("--help"), "{text}");
    }
}
