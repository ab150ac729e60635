//! `cargo xtask kernels`: runs the eBPF programs on kernels other than this machine's.
//!
//! QEMU boots Debian's cloud kernels with an initial RAM disk that holds only busybox, `evenkeel`
//! with its shared libraries, and a configuration. The guest runs `simulate --json` on generated
//! flows, and its output must be identical to the output on this kernel. This finds programs that
//! another verifier rejects or that behave differently. Downloads about 100 MB; a boot takes less
//! than a minute.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::{apt::Apt, process, setup, versions};

/// The guest's first program. Its output goes to the serial line between two marks, which separate
/// it from the output of BIOS and kernel.
const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox echo 1 > /proc/sys/net/core/bpf_jit_enable
/bin/busybox echo EVENKEEL-BEGIN
/evenkeel simulate --config /evenkeel.toml --flows 3000 --json 2>&1
/evenkeel simulate --config /evenkeel.toml --flows 3000 --json --capturing 2>&1
/bin/busybox echo EVENKEEL-END
/bin/busybox poweroff -f
";

/// Attempts to boot a kernel: in the emulator, about one in ten crashes before the first program.
const BOOTS: usize = 3;

/// The run that is compared on every kernel.
struct Trial {
    work: PathBuf,
    emulator: Emulator,
    /// Output of `simulate` on this kernel.
    wanted: String,
}

/// Boots every kernel. Returns whether the output was the same on all.
pub(crate) fn run() -> Result<bool> {
    setup::run()?;
    let trial = Trial::prepare(&build()?)?;
    let mut all_same = true;
    for kernel in versions::KERNELS {
        all_same &= trial.compare(kernel)?;
    }
    Ok(all_same)
}

/// The same for the suite, which has just built `evenkeel`. Returns for each kernel whether the output
/// was the same, or why it can't be run here.
pub(crate) fn in_suite() -> Vec<(&'static str, Result<bool>)> {
    let trial = Trial::prepare(&process::built("debug", "evenkeel"));
    let outcome = |kernel| match &trial {
        Ok(trial) => trial.compare(kernel),
        Err(error) => Err(anyhow!("{error:#}")),
    };
    let kernels = versions::KERNELS.iter();
    kernels.map(|kernel| (kernel.1, outcome(kernel))).collect()
}

impl Trial {
    fn prepare(evenkeel: &Path) -> Result<Self> {
        ensure!(
            process::is_root(),
            "loading eBPF programs needs root: run this as root"
        );
        ensure!(
            cfg!(target_arch = "x86_64"),
            "the kernels are built for x86_64, and this machine is not"
        );
        let mut apt = Apt::default();
        install_tools(&mut apt)?;
        let work = process::root().join("target/kernels");
        fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
        let emulator = Emulator::find(&mut apt, &work)?;
        fs::write(work.join("evenkeel.toml"), configuration())
            .context("write the configuration")?;
        let wanted = simulate_here(evenkeel, &work)?;
        make_ram_disk(evenkeel, &work)?;
        Ok(Self {
            work,
            emulator,
            wanted,
        })
    }

    fn compare(&self, (suite, package): &(&str, &str)) -> Result<bool> {
        let image = fetch(&self.work, suite, package)?;
        let mut printed = self.boot(&image)?;
        if printed != self.wanted {
            // The emulator itself may fail; a difference in the programs is there again.
            printed = self.boot(&image)?;
        }
        let same = printed == self.wanted;
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        println!(
            "{name}: {}",
            if same {
                "same output"
            } else {
                "DIFFERENT output"
            }
        );
        if !same {
            eprintln!(
                "expected (this kernel):\n{}\nactual:\n{printed}",
                self.wanted
            );
        }
        Ok(same)
    }

    /// Boots a kernel and returns the output of `simulate` there.
    fn boot(&self, image: &Path) -> Result<String> {
        for _ in 0..BOOTS {
            let printed = self.boot_once(image)?;
            if let Some((_, ours)) = printed.split_once("EVENKEEL-BEGIN\n") {
                // Without the end mark, the kernel crashed while our program ran.
                let ours = ours
                    .split_once("EVENKEEL-END")
                    .map_or(ours, |(ours, _)| ours);
                return Ok(ours.trim().to_owned());
            }
            eprintln!(
                "{} ended before it started the first program:\n{printed}",
                image.display()
            );
        }
        bail!("{} did not boot in {BOOTS} attempts", image.display());
    }

    fn boot_once(&self, image: &Path) -> Result<String> {
        let mut qemu = self.emulator.command();
        qemu.args(["-M", "q35", "-cpu", "max", "-accel", "tcg", "-m", "2048"]);
        qemu.args(["-nographic", "-no-reboot", "-nic", "none", "-kernel"]);
        qemu.arg(image)
            .arg("-initrd")
            .arg(self.work.join("initrd.gz"));
        qemu.args(["-append", "console=ttyS0 quiet panic=-1"]);
        eprintln!("+ {}", process::shown(&qemu));
        let output = qemu.stdin(Stdio::null()).output().context("start QEMU")?;
        ensure!(
            !output.stdout.is_empty(),
            "QEMU printed nothing: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).replace('\r', ""))
    }
}

/// QEMU: installed, or only unpacked into a folder. Installing it requires all QEMU packages of the
/// machine to be from one release, which would replace those from backports.
#[derive(Debug, PartialEq, Eq)]
struct Emulator {
    program: PathBuf,
    /// Folders with shared libraries that the machine lacks.
    libraries: Vec<PathBuf>,
}

impl Emulator {
    fn find(apt: &mut Apt, work: &Path) -> Result<Self> {
        let versions::Tool {
            program, package, ..
        } = versions::EMULATOR;
        if let Some(program) = process::find(program) {
            let libraries = Vec::new();
            return Ok(Self { program, libraries });
        }
        let folder = work.join("qemu");
        if let Some(emulator) = Self::unpacked(&folder) {
            return Ok(emulator);
        }
        apt.unpack(package, &folder, "it boots other kernels")?;
        Self::unpacked(&folder).with_context(|| format!("the unpacked {package} has no {program}"))
    }

    /// Returns the one that is unpacked in a folder. It finds its firmware relative to itself.
    fn unpacked(folder: &Path) -> Option<Self> {
        let program = folder.join("usr/bin").join(versions::EMULATOR.program);
        if !program.is_file() {
            return None;
        }
        let mut libraries = Vec::new();
        for parent in ["lib", "usr/lib"] {
            let inside = folder.join(parent).join("x86_64-linux-gnu");
            if inside.is_dir() {
                libraries.push(inside);
            }
        }
        Some(Self { program, libraries })
    }

    /// Returns a command that lacks only QEMU's options, and ends after ten minutes.
    fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        if !self.libraries.is_empty() {
            let libraries = self.libraries.iter().map(|folder| folder.as_os_str());
            let libraries: Vec<&OsStr> = libraries.collect();
            command.env("LD_LIBRARY_PATH", libraries.join(OsStr::new(":")));
        }
        command.arg("600").arg(&self.program);
        command
    }
}

fn install_tools(apt: &mut Apt) -> Result<()> {
    let missing = |tool: &&versions::Tool| process::find(tool.program).is_none();
    let packages: Vec<&str> = (versions::KERNEL_TOOLS.iter())
        .filter(missing)
        .map(|tool| tool.package)
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    apt.install(&packages, "they boot other kernels")
}

fn build() -> Result<PathBuf> {
    let mut build = process::cargo(["build", "-p", "lb-userspace", "--bin", "evenkeel"]);
    process::run(&mut build)?;
    Ok(process::built("debug", "evenkeel"))
}

/// Copies the shared libraries of a program and its loader to the same paths below `root`.
fn copy_libraries(program: &Path, root: &Path) -> Result<()> {
    let listed = process::output(Command::new("ldd").arg(program));
    let listed = listed.with_context(|| format!("run ldd on {}", program.display()))?;
    for library in listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let to = root.join(library.trim_start_matches('/'));
        let folder = to.parent().unwrap_or(root);
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::copy(library, &to).with_context(|| format!("copy {library}"))?;
    }
    Ok(())
}

/// Returns a configuration with a VIP for each forwarding mode, protocol and family.
fn configuration() -> String {
    let mut text =
        "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n"
            .to_owned();
    for forward in ["l2", "ipip", "nat"] {
        for protocol in ["tcp", "udp"] {
            for (family, vip, backend) in
                [(4, "203.0.113.1", "10.0.0."), (6, "2001:db8::1", "fd00::")]
            {
                let port = 1000 + text.len();
                text += &format!(
                    "[[vip]]\nname = \"{forward}-{protocol}-{family}\"\naddress = \"{vip}\"\nport = {port}\n\
                     protocol = \"{protocol}\"\nforward = \"{forward}\"\n"
                );
                for (name, weight) in [("1", 100), ("2", 300)] {
                    text += &format!(
                        "[[vip.backend]]\nname = \"{name}\"\naddress = \"{backend}{name}\"\nweight = {weight}\n"
                    );
                }
            }
        }
    }
    text
}

fn simulate_here(evenkeel: &Path, work: &Path) -> Result<String> {
    let mut command = Command::new(evenkeel);
    command.args(["simulate", "--flows", "3000", "--json", "--config"]);
    command.arg(work.join("evenkeel.toml"));
    let printed =
        process::output(&mut command).context("run `evenkeel simulate` on this kernel")?;
    // The program for packet captures must print the same.
    let printed = printed.trim();
    Ok(format!("{printed}\n{printed}"))
}

fn make_ram_disk(evenkeel: &Path, work: &Path) -> Result<()> {
    let root = work.join("root");
    fs::create_dir_all(root.join("bin")).context("create the folders of the RAM disk")?;
    let busybox = process::find("busybox").context("busybox is not on the PATH")?;
    fs::copy(busybox, root.join("bin/busybox")).context("copy busybox")?;
    fs::copy(work.join("evenkeel.toml"), root.join("evenkeel.toml"))
        .context("copy the configuration")?;
    process::run(
        Command::new("strip")
            .arg("-o")
            .arg(root.join("evenkeel"))
            .arg(evenkeel),
    )?;
    copy_libraries(evenkeel, &root)?;
    fs::write(root.join("init"), INIT).context("write init")?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let mut pack = Command::new("sh");
    pack.args([
        "-c",
        "find . | cpio --quiet -o -H newc | gzip -1 > ../initrd.gz",
    ]);
    process::run(pack.current_dir(&root))
}

/// Downloads the newest kernel of a Debian suite whose package begins with `prefix`, from this
/// machine's mirror. Uses folders of its own, so that the machine's package lists do not change.
fn fetch(work: &Path, suite: &str, prefix: &str) -> Result<PathBuf> {
    let apt = work.join(suite);
    for folder in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(folder)).with_context(|| format!("create {folder}"))?;
    }
    let mirror = mirror().context("find a Debian mirror in /etc/apt")?;
    // Trusted: the machine may lack the key of an older suite, and the kernel only runs in QEMU.
    let source = format!("deb [trusted=yes] {mirror} {suite} main\n");
    fs::write(apt.join("sources.list"), source).context("write sources.list")?;
    let options = [
        format!(
            "Dir::Etc::sourcelist={}",
            apt.join("sources.list").display()
        ),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={}", apt.join("lists").display()),
        format!("Dir::Cache={}", apt.join("cache").display()),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let with = |program: &str| {
        let mut command = Command::new(program);
        for option in &options {
            command.arg("-o").arg(option);
        }
        command
    };
    process::run(with("apt-get").args(["update", "--quiet"]))?;
    let search = format!("^{prefix}.*-cloud-amd64$");
    let found = process::output(with("apt-cache").args(["search", "--names-only", &search]));
    let found = found.unwrap_or_default();
    let names = found
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let package = names
        .max_by_key(|name| numbers(name))
        .with_context(|| format!("{suite} has no package {prefix}…-cloud-amd64"))?;
    process::run(
        with("apt-get")
            .args(["download", "--quiet", package])
            .current_dir(&apt),
    )?;
    let version = package.trim_start_matches("linux-image-");
    let archive = fs::read_dir(&apt)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.starts_with(&format!("{package}_"))
        });
    let archive = archive.with_context(|| format!("{package} was not downloaded"))?;
    process::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&archive)
            .arg(apt.join("image")),
    )?;
    Ok(apt.join(format!("image/boot/vmlinuz-{version}")))
}

/// Returns the numbers in a name, by which versions are compared.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// Returns the mirror from which this machine installs Debian packages.
fn mirror() -> Option<String> {
    let policy = process::output(Command::new("apt-cache").arg("policy"))?;
    let lines: Vec<&str> = policy.lines().collect();
    let is_debian = |pair: &&[&str]| pair[1].contains("l=Debian,") && pair[0].contains("/main ");
    let line = lines.windows(2).find(is_debian)?[0];
    line.split_whitespace()
        .find(|word| word.starts_with("http"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs};

    use super::{Emulator, numbers, versions};

    #[test]
    fn runs_an_unpacked_emulator_with_its_own_libraries() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |path: &str| folder.path().join(path);
        assert_eq!(Emulator::unpacked(folder.path()), None);

        fs::create_dir_all(inside("usr/bin")).unwrap();
        fs::create_dir_all(inside("usr/lib/x86_64-linux-gnu")).unwrap();
        fs::create_dir_all(inside("lib/x86_64-linux-gnu")).unwrap();
        let program = inside("usr/bin").join(versions::EMULATOR.program);
        fs::write(&program, "").unwrap();

        let command = Emulator::unpacked(folder.path()).unwrap().command();
        let at = folder.path().display();
        let libraries = format!("{at}/lib/x86_64-linux-gnu:{at}/usr/lib/x86_64-linux-gnu");
        let set: Vec<_> = command.get_envs().collect();
        assert_eq!(
            set,
            [(OsStr::new("LD_LIBRARY_PATH"), Some(OsStr::new(&libraries)))]
        );
        assert_eq!(command.get_args().last(), Some(program.as_os_str()));
    }

    #[test]
    fn compares_kernel_versions_by_number() {
        let newest = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ]
        .into_iter()
        .max_by_key(|name| numbers(name));
        assert_eq!(newest, Some("linux-image-6.1.0-56-cloud-amd64"));
    }
}
