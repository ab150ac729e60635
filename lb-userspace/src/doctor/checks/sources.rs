//! Checks on the sources of backends.

use crate::doctor::{Findings, Host};

pub(in super::super) fn sources(host: &Host, findings: &mut Findings) {
    for asked in &host.sources {
        match &asked.answer {
            Ok(1) => findings.ok("source", &asked.source, "answers with 1 backend"),
            Ok(count) => findings.ok(
                "source",
                &asked.source,
                format!("answers with {count} backends"),
            ),
            Err(why) => {
                let vips = asked.vips.join(", ");
                let advice = format!(
                    "check the name, and the servers of sources.dns_servers or /etc/resolv.conf; until it \
                     answers, a running controller keeps the last backends of {vips}, and a new one has none"
                );
                findings.warn("source", &asked.source, why, advice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Level,
        checks::sample::{host, level},
    };
    use lb_daemon::membership::Asked;

    #[test]
    fn a_source_must_answer() {
        for (answer, expected) in [
            (Ok(3), Level::Ok),
            (
                Err("web: no such name (NXDOMAIN)".to_owned()),
                Level::Warning,
            ),
        ] {
            let mut host = host();
            host.sources = vec![Asked {
                source: "dns:web".to_owned(),
                vips: vec!["web".to_owned()],
                answer,
            }];
            assert_eq!(
                level("source", |findings| sources(&host, findings)),
                expected
            );
        }
    }
}
