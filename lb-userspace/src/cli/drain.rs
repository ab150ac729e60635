//! `evenkeel backend drain`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
use tokio::time::{Instant, sleep};

use super::{
    argument::{self, BackendPath},
    backend,
    change::{self, ChangeArgs, complain},
    exit::{self, code},
    session::Session,
    view,
};
use lb_api::{Change, MemberStatus, VipStatus, WantedState, client::Client};

const LOOK: Duration = Duration::from_secs(1);

/// Let a backend keep its flows, and give it no new ones.
///
/// With --wait, returns when it is idle: nothing was sent to it for --idle. A connection that is silent
/// for longer is not noticed, unless it has an entry in the tracking table: `evenkeel status` shows how
/// many there are.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: restart a backend without a failed request
  evenkeel backend drain api-1 --wait && ssh api-1 systemctl restart api
  evenkeel backend undrain api-1")]
pub(super) struct DrainArgs {
    /// The backend; without VIP/, in every VIP that has it.
    #[arg(value_name = "[VIP/]BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    /// Wait until it is idle.
    #[arg(long, conflicts_with_all = ["no_wait", "dry_run"])]
    wait: bool,
    /// Idle is who got no packet for this long.
    #[arg(long, value_name = "T", default_value = "30s", value_parser = argument::some_seconds, requires = "wait")]
    idle: u32,
    /// Give up waiting after this time: exit code 1; it stays drained.
    #[arg(long, value_name = "T", value_parser = argument::some_seconds, requires = "wait")]
    timeout: Option<u32>,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn run(args: &DrainArgs, client: Client) -> Result<ExitCode> {
    let edits = vec![backend::state(args.backend.clone(), WantedState::Drain)];
    let session = Session::new(client.clone(), args.change.output);
    let done = change::make(client, Change::Edits { edits }, &args.change).await?;
    if done != ExitCode::SUCCESS {
        return Ok(done);
    }
    if !args.wait {
        let left = remaining(&session.client.vips().await?, &args.backend);
        for (vip, member) in left {
            let name = format!("{vip}/{}", member.backend);
            session.say(&format!("{name}: {}\n", view::members::remainder(&member)))?;
        }
        return Ok(done);
    }
    tokio::select! {
        done = wait(&session, args) => done,
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            complain("\nit goes on draining; `evenkeel backend undrain` ends that");
            Ok(code(exit::INTERRUPTED))
        }
    }
}

async fn wait(session: &Session, args: &DrainArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let mut line = change::ProgressLine::new();
    let mut quiet = Quiet::default();
    loop {
        match session.client.vips().await {
            Ok(vips) => {
                let left = remaining(&vips, &args.backend);
                if quiet.lasts(&left, Instant::now()) >= Duration::from_secs(args.idle.into()) {
                    line.end();
                    session.say(&format!("{} is idle\n", args.backend.backend))?;
                    return Ok(ExitCode::SUCCESS);
                }
                line.show(&text(&left));
            }
            Err(error) if error.is_passing() => line.show(&format!("waiting: {error}")),
            Err(error) => return Err(error.into()),
        }
        if let Some(limit) = args.timeout
            && started.elapsed() >= Duration::from_secs(limit.into())
        {
            line.end();
            bail!(
                "{} is not idle after {limit} s; it stays drained",
                args.backend.backend
            );
        }
        sleep(LOOK).await;
    }
}

/// The members that are meant, with their VIPs.
fn remaining(vips: &[VipStatus], path: &BackendPath) -> Vec<(String, MemberStatus)> {
    let meant = |vip: &&VipStatus| path.vip.as_ref().is_none_or(|name| *name == vip.name);
    vips.iter()
        .filter(meant)
        .flat_map(|vip| {
            let members = vip.members.iter();
            let members = members.filter(|member| member.backend == path.backend);
            members.map(|member| (vip.name.clone(), member.clone()))
        })
        .collect()
}

fn text(left: &[(String, MemberStatus)]) -> String {
    let parts: Vec<String> = left
        .iter()
        .map(|(vip, member)| {
            format!(
                "{vip}/{}: {}",
                member.backend,
                view::members::remainder(member)
            )
        })
        .collect();
    parts.join("; ")
}

/// Since when nothing was sent.
#[derive(Default)]
struct Quiet {
    packets: Option<Vec<u64>>,
    since: Option<Instant>,
}

impl Quiet {
    /// How long nothing was sent to them. A controller that started anew counts anew: that is a change.
    fn lasts(&mut self, members: &[(String, MemberStatus)], now: Instant) -> Duration {
        let packets: Vec<u64> = members
            .iter()
            .map(|(_, member)| member.totals.packets)
            .collect();
        if self.packets.as_ref() != Some(&packets) {
            self.packets = Some(packets);
            self.since = Some(now);
        }
        self.since
            .map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::fixtures, *};

    #[test]
    fn quiet_is_who_gets_no_packet() {
        let path = BackendPath::parse("api/api-2").unwrap();
        let mut left = remaining(&fixtures::status().vips, &path);
        assert_eq!(left.len(), 1);
        let mut quiet = Quiet::default();
        let start = Instant::now();
        let later = start + Duration::from_secs(20);
        assert_eq!(quiet.lasts(&left, start), Duration::ZERO);
        assert_eq!(quiet.lasts(&left, later), Duration::from_secs(20));
        left[0].1.totals.packets += 1;
        assert_eq!(quiet.lasts(&left, later), Duration::ZERO);
    }

    #[test]
    fn without_a_vip_all_are_meant() {
        let mut vips = fixtures::status().vips;
        vips.push(VipStatus {
            name: "other".into(),
            ..vips[0].clone()
        });
        let count = |path: &str| remaining(&vips, &BackendPath::parse(path).unwrap()).len();
        assert_eq!(
            (count("api-1"), count("other/api-1"), count("x/api-1")),
            (2, 1, 0)
        );
    }
}
