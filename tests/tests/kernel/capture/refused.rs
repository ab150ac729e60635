//! Captures that are refused.

use super::*;

#[test]
fn one_capture_runs_at_a_time() {
    test("conflict", |site| {
        let mut first = site.capture("first", &["--vip", "v"]);
        let file = site.node.folder.join("second");
        let second = ["capture", "--for", "5s", "-w", file.to_str().unwrap()];
        let second = site.run(&second);
        let said = String::from_utf8_lossy(&second.stderr);
        assert_eq!(second.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("root (evenkeel, pid {})", first.child.id())),
            "{said}"
        );
        assert!(
            said.contains("has been capturing packets since 20"),
            "{said}"
        );
        assert!(!file.exists());
        site.send(1);
        first.signal(Signal::SIGINT);
        first.wait();
        assert_eq!(first.frames(), 2, "the first was not disturbed");
    });
}

#[test]
fn errors_name_what_was_probably_meant() {
    test("errors", |site| {
        let ordinary = site.program();
        let file = site.node.folder.join("none");
        let file = file.to_str().unwrap();
        for (arguments, expected) in [
            (["--vip", "w"], "there is no VIP \"w\"; did you mean \"v\"?"),
            (
                ["--backend", "b22"],
                "no VIP has a backend \"b22\"; did you mean \"b2\"?",
            ),
            (
                ["--backend", "v/b22"],
                "VIP \"v\" has no backend \"b22\"; did you mean \"b2\"?",
            ),
            (
                ["--reason", "NO_MEMBR"],
                "there is no reason \"NO_MEMBR\"; did you mean \"NO_MEMBER\"?",
            ),
            (
                ["--verdict", "dropp"],
                "there is no verdict \"dropp\"; did you mean \"drop\"?",
            ),
            (["--flow", "nonsense"], "use the form of `explain`"),
            (["--source", "10.0.0.0/99"], "is not a prefix"),
            (
                ["-w", "/nowhere/file"],
                "cannot write /nowhere/file: No such file",
            ),
        ] {
            let mut all = vec!["capture", "--for", "5s"];
            if arguments[0] != "-w" {
                all.extend(["-w", file]);
            }
            all.extend(arguments);
            let output = site.run(&all);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
            assert!(said.contains(expected), "{arguments:?}: {said}");
            assert!(!Path::new(file).exists(), "{arguments:?}");
        }
        assert_eq!(site.program(), ordinary);
    });
}

#[test]
fn only_root_captures() {
    test("root", |site| {
        let group = nix::unistd::Group::from_name("nogroup").unwrap().unwrap();
        let socket = site.node.folder.join("api.sock");
        nix::unistd::chown(&socket, None, Some(group.gid)).unwrap();
        let mut folder = site.node.folder.as_path();
        while folder != Path::new("/tmp") && folder.parent().is_some() {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            let _ = fs::set_permissions(folder, open);
            folder = folder.parent().unwrap();
        }
        let body = "{}";
        let mut command = Command::new("curl");
        command
            .args(["-s", "--max-time", "5", "--unix-socket"])
            .arg(&socket);
        command.args([
            "-H",
            "content-type: application/json",
            "-d",
            body,
            "http://x/v1/capture",
        ]);
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        std::os::unix::process::CommandExt::gid(&mut command, group.gid.as_raw());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains("only root may capture packets"),
            "{said} {output:?}"
        );
    });
}
