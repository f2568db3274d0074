//! `datum-connect doctor`: each thing an attachment needs, in the order in which they build on each
//! other. What cannot be tried because something before it failed is said to be skipped.

mod checks;
mod report;

use crate::{
    args::DoctorArgs,
    commands::attach,
    control::{self, Running},
    dirs::Dirs,
    failure::{Exit, Failure},
    profile::Profile,
};

use self::{
    checks::{Found, Probe},
    report::Report,
};

/// Looks at everything, prints the findings, and fails as the first failure that is shown does.
pub(crate) fn run(args: &DoctorArgs, dirs: &Dirs) -> Result<(), Failure> {
    let mut report = Report::default();
    examine(args, dirs, &mut report);
    report.finish();
    if args.json {
        super::print_json(&report.findings)?;
    } else {
        super::print(&report.text())?;
    }
    report
        .exit()
        .map_or(Ok(()), |exit| Err(Failure::silent(exit)))
}

fn examine(args: &DoctorArgs, dirs: &Dirs, report: &mut Report) {
    let vpc = attach::choose_vpc(args.vpc.as_ref(), dirs);
    let tunnel = vpc.and_then(|vpc| {
        let profile = Profile::load(dirs, &vpc)?;
        Ok((attach::complete(&profile, &args.tunnel, dirs)?, vpc))
    });
    // The key that an attachment would use, as far as that is known.
    let named = tunnel
        .as_ref()
        .map_or(&args.tunnel.key, |(tunnel, _)| &tunnel.key);
    let has_key = checks::key(report, &dirs.key_file(named.as_deref()));
    checks::clock(report);
    checks::device(report);
    let (tunnel, vpc) = match tunnel {
        Ok(found) => found,
        Err(failure) => return report.fail("profile", &failure),
    };
    if !has_key {
        return;
    }
    let config = match attach::config(&vpc, &tunnel, dirs) {
        Ok(config) => config,
        Err(failure) => return report.fail("profile", &failure),
    };
    report.ok("profile", format!("{vpc} through {}", config.gateway));
    if !checks::name(report, &config.gateway) {
        return;
    }
    if !checks::handshake(report, &config) {
        return;
    }
    // An attachment that runs is not disturbed: a second session of the same key takes over.
    let running = control::find(dirs, Some(&vpc))
        .and_then(|mut a| Ok((a.status()?, a)))
        .ok();
    let found = match running {
        Some((running, attachment)) => by_attachment(report, running, attachment),
        None => checks::session(report, &config).map(Found::Probe),
    };
    if let Some(mut found) = found {
        checks::routes(report, &found);
        checks::mtu(report, &found);
        checks::echo(report, &mut found);
    }
}

/// What a running attachment knows.
fn by_attachment(
    report: &mut Report,
    running: Running,
    attachment: control::Attachment,
) -> Option<Found> {
    let status = &running.status;
    if status.phase != masque_client::Phase::Connected {
        let reason = status
            .reason
            .clone()
            .unwrap_or_else(|| format!("it is {:?}", status.phase));
        let advice = status.advice.clone().unwrap_or_default();
        let what = format!(
            "the running attachment (pid {}) is not connected: {reason}",
            running.pid
        );
        report.fail("auth", &Failure::new(Exit::Unavailable, what, advice));
        return None;
    }
    report.ok("auth", format!("attached by pid {}", running.pid));
    Some(Found::Running(Box::new(running), attachment))
}

impl Probe {
    /// The routes it was given.
    fn routes(&self) -> &[ipnet::IpNet] {
        &self.assignment.routes
    }
}
