//! `datum-connect ping`.

use std::time::Duration;

use crate::{
    args::PingArgs,
    control::{self, Answer, Request},
    dirs::Dirs,
    failure::{Exit, Failure},
};

/// Between two echoes.
const INTERVAL: Duration = Duration::from_millis(200);

/// Sends echoes and prints each answer; fails when none came.
pub(crate) fn run(args: &PingArgs, dirs: &Dirs) -> Result<(), Failure> {
    let mut attachment = control::find(dirs, args.vpc.as_ref())?;
    let request = Request::Ping {
        address: args.address,
        size_bytes: args.size,
        timeout_ms: args.timeout_ms,
    };
    let extra = Duration::from_millis(args.timeout_ms.into());
    let mut rtts_us = Vec::with_capacity(args.count.into());
    let mut last = String::new();
    for sequence in 1..=args.count {
        if sequence > 1 {
            std::thread::sleep(INTERVAL);
        }
        match attachment.ask(&request, extra)? {
            Answer::Pong { from, rtt_us } => {
                super::print(&format!(
                    "{from}: seq={sequence} time={}\n",
                    milliseconds(rtt_us)
                ))?;
                rtts_us.push(rtt_us);
            }
            Answer::Error { reason } => {
                say!("seq={sequence}: {reason}");
                last = reason;
            }
            other => last = format!("unexpected answer {other:?}"),
        }
    }
    rtts_us.sort_unstable();
    let (Some(min), Some(max)) = (rtts_us.first(), rtts_us.last()) else {
        return Err(Failure::new(
            Exit::Unavailable,
            format!("no answer through the tunnel to {}: {last}", attachment.vpc),
            format!("`datum-connect doctor --vpc {}`", attachment.vpc),
        ));
    };
    super::print(&format!(
        "{} of {} answered, min {} median {} max {}\n",
        rtts_us.len(),
        args.count,
        milliseconds(*min),
        milliseconds(rtts_us[rtts_us.len() / 2]),
        milliseconds(*max)
    ))
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}
