//! Configuration files: the file itself, and the files that it names, such as `hash_seed_file`.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use lb_model::config::{self, Config, ConfigErrors};

/// Bytes of a configuration: several times what all VIPs and backends with all keys take.
const MAX_CONFIG: u64 = 4 << 20;
/// Bytes of a file that a configuration names: a seed, a secret, certificates, a list of prefixes.
const MAX_NAMED: u64 = 32 << 20;

/// Reads a configuration file.
///
/// # Errors
///
/// Everything that is wrong with the file, or why it can't be read.
pub fn load(path: impl AsRef<Path>) -> Result<Config, ConfigErrors> {
    let path = path.as_ref();
    load_bytes(
        &path.display().to_string(),
        fs::File::open(path).and_then(read),
    )
}

/// Parses what was read of a file of this name.
///
/// # Errors
///
/// As [`load`].
pub fn load_bytes(name: &str, bytes: io::Result<Vec<u8>>) -> Result<Config, ConfigErrors> {
    let bytes = bytes.map_err(|error| ConfigErrors::unreadable(name, &error))?;
    match String::from_utf8(bytes) {
        Ok(text) => parse(name, &text),
        Err(error) => Err(ConfigErrors::not_utf8(name, error.as_bytes())),
    }
}

/// Parses a configuration. `file` is its name in messages; relative paths in it start at the
/// directory of `file`.
///
/// # Errors
///
/// Everything that is wrong with the text.
pub fn parse(file: &str, text: &str) -> Result<Config, ConfigErrors> {
    let directory = Path::new(file).parent().unwrap_or(Path::new(""));
    config::parse_with(file, text, &|path| read_named(&directory.join(path)))
}

/// Reads the bytes of a configuration.
///
/// # Errors
///
/// They can't be read, or are more than any configuration has.
pub fn read(source: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_CONFIG + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CONFIG {
        return Err(io::Error::other("larger than 4 MiB"));
    }
    Ok(bytes)
}

/// Reads a file that a configuration names. A client that may send configurations must not be able
/// to make the controller wait for a pipe or read without end.
fn read_named(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > MAX_NAMED {
        return Err(io::Error::other("larger than 32 MiB"));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use lb_model::config::HealthKind;

    use super::*;

    const LEAST: &str = include_str!("../../model/tests/golden/config/least.toml");
    const SEED: &str = "hash_seed = \"000102030405060708090a0b0c0d0e0f\"";

    fn titles(errors: &ConfigErrors) -> Vec<&str> {
        errors
            .problems()
            .iter()
            .map(|problem| problem.title.as_str())
            .collect()
    }

    #[test]
    fn reads_the_webhook_secret_and_never_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("evenkeel.toml");
        let text = format!("{LEAST}\n[alerts]\nwebhook_secret_file = \"secret\"\n");
        fs::write(&config, text).unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "0123456789abcdef\n").unwrap();
        let alerts = load(&config).unwrap().alerts;
        assert_eq!(
            alerts.webhook_secret.as_ref().unwrap().bytes(),
            b"0123456789abcdef"
        );
        assert!(!format!("{alerts:?}").contains("0123"), "{alerts:?}");
        fs::write(&file, "short-one\n").unwrap();
        let error = load(&config).unwrap_err().to_string();
        assert!(error.contains("can't use the secret in secret"), "{error}");
        assert!(
            error.contains("has 9 characters") && !error.contains("short-one"),
            "{error}"
        );
    }

    #[test]
    fn reads_certificates_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("evenkeel.toml");
        let health = "health = { kind = \"https\", ca_file = \"ca.pem\" }";
        let text = LEAST.replace("\"l2\"", &format!("\"l2\"\n{health}"));
        fs::write(&config, text).unwrap();
        let error = load(&config).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
        fs::write(folder.path().join("ca.pem"), "no certificate").unwrap();
        let error = load(&config).unwrap_err().to_string();
        assert!(
            error.contains("the file contains no certificate"),
            "{error}"
        );
        let pem = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
        fs::write(folder.path().join("ca.pem"), pem).unwrap();
        let health = load(&config).unwrap().vips[0].health.clone().unwrap();
        let HealthKind::Https { verify, ca, .. } = health.kind else {
            panic!("{health:?}")
        };
        assert!(verify);
        assert_eq!(ca.unwrap().pem, pem);
    }

    #[test]
    fn finds_the_seed_file_in_the_directory_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("evenkeel.toml");
        fs::write(&config, LEAST.replace(SEED, "hash_seed_file = \"seed\"")).unwrap();
        assert_eq!(load(&config).unwrap_err().len(), 1);
        let seed = folder.path().join("seed");
        fs::write(&seed, "000102030405060708090a0b0c0d0e0f\n").unwrap();
        assert_eq!(load(&config).unwrap(), parse("f", LEAST).unwrap());
        fs::write(&seed, "secret").unwrap();
        let error = load(&config).unwrap_err();
        assert_eq!(titles(&error), ["can't use the seed in seed"]);
        assert!(!error.to_string().contains("\"secret\""), "{error}");
    }

    #[test]
    fn reports_missing_named_files_with_the_reason() {
        for (from, to) in [
            (SEED, "hash_seed_file = \"/nonexistent/seed\""),
            (
                "\"l2\"",
                "\"l2\"\nhealth = { kind = \"https\", ca_file = \"/nonexistent\" }",
            ),
        ] {
            let error = parse("f", &LEAST.replace(from, to)).unwrap_err();
            assert_eq!(error.len(), 1, "{error}");
            assert!(error.to_string().contains("No such file"), "{error}");
        }
    }

    #[test]
    fn rejects_files_that_are_not_text() {
        let error = load("/nonexistent/evenkeel.toml").unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("can't read /nonexistent/evenkeel.toml"),
            "{error}"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"[node]\nx = \"\xff\xfe\"").unwrap();
        let error = load(file.path()).unwrap_err();
        assert_eq!(
            error.position(&error.problems()[0]),
            Some((2, 6)),
            "{error}"
        );
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }
}
