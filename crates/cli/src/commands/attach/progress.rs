//! The lines a person sees while an attachment comes up and lives.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt, fchown},
    path::PathBuf,
    time::{Duration, Instant},
};

use masque_client::{Assignment, AttachError, Stage, TunnelEvent, VpcName};

use super::background::UP;
use crate::{
    dirs::{self, Dirs},
    profile::Profile,
};

/// Routes shown in a line; `status --json` has them all.
const ROUTES_SHOWN: usize = 6;

/// How often a failure that lasts is told again.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// Tells on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) connector: String,
    pub(super) vpc: VpcName,
    pub(super) gateway: String,
    /// The log file of a background process, which is cut off from its starter once it is up.
    pub(super) child: Option<PathBuf>,
    /// What to remember once it worked.
    pub(super) profile: Option<(Dirs, Profile)>,
    pub(super) keep_trying: bool,
    pub(super) was_up: bool,
    /// The furthest stage that was told; attempts that begin again are not.
    pub(super) reached: Option<Stage>,
    /// The last failure that was told, and when.
    pub(super) told: Option<(Instant, String)>,
}

impl Progress {
    pub(super) fn tell(&mut self, event: &TunnelEvent, device: &str) {
        match event {
            TunnelEvent::Stage(stage) if !self.was_up => self.stage(*stage),
            TunnelEvent::Up(assignment) => self.up(assignment, device),
            TunnelEvent::Changed(assignment) => say!("changed: {}", summary(assignment)),
            TunnelEvent::Mtu(mtu_bytes) => tracing::info!(mtu_bytes, "the MTU changed"),
            TunnelEvent::Draining => say!("the gateway is going away; moving"),
            // A first attempt begins again at once, or ends with an error that tells all.
            TunnelEvent::Down { error, .. } if self.was_up || self.keep_trying => self.down(error),
            // The command's exit tells the rest.
            _ => {}
        }
    }

    /// Attempts follow each other fast; a cause is told when it is new, and now and then.
    fn down(&mut self, error: &AttachError) {
        let text = format!("not connected: {error}; {}; trying on", error.advice());
        let told = self.told.as_ref();
        if told.is_some_and(|(at, told)| *told == text && at.elapsed() < REPEAT_AFTER) {
            return;
        }
        say!("{text}");
        self.told = Some((Instant::now(), text));
    }

    fn stage(&mut self, stage: Stage) {
        if Some(stage) <= self.reached {
            return;
        }
        self.reached = Some(stage);
        match stage {
            Stage::Resolve => line("resolve", &self.gateway),
            Stage::Connect => line("connect", &self.gateway),
            Stage::Authenticate => line("tls", "the gateway's certificate is good"),
            Stage::Address => line("authenticated", &format!("as {}", self.connector)),
            Stage::Up => {}
        }
    }

    fn up(&mut self, assignment: &Assignment, device: &str) {
        if self.was_up {
            say!("connected again: {}", summary(assignment));
            self.told = None;
            return;
        }
        self.was_up = true;
        line("address", &list(&assignment.addresses, usize::MAX));
        line("routes", &list(&assignment.routes, ROUTES_SHOWN));
        line("mtu", &format!("{} on {device}", assignment.mtu_bytes));
        if let Some((dirs, profile)) = self.profile.take()
            && let Err(failure) = profile.save(&dirs, &self.vpc)
        {
            say!("the flags are not remembered: {failure}");
        }
        match self.child.take() {
            None => say!("attached to {}; ctrl-c ends it", self.vpc),
            Some(log) => {
                say!(
                    "attached to {} in the background, pid {}",
                    self.vpc,
                    std::process::id()
                );
                say!("{UP}");
                // From now on not of the terminal's session, whose end would end us. Until now
                // whoever ended our starter by the terminal ended us, too.
                let _ = nix::unistd::setsid();
                cut_off(&log);
            }
        }
    }
}

fn line(what: &str, detail: &str) {
    say!("  {what:<14}{detail}");
}

fn summary(assignment: &Assignment) -> String {
    let Assignment {
        addresses,
        routes,
        mtu_bytes,
        ..
    } = assignment;
    let (addresses, routes) = (list(addresses, usize::MAX), list(routes, ROUTES_SHOWN));
    format!("address {addresses}, routes {routes}, mtu {mtu_bytes}")
}

/// Prefixes with commas; a host's without its length.
fn list(prefixes: &[ipnet::IpNet], max: usize) -> String {
    if prefixes.is_empty() {
        return "none".to_owned();
    }
    let texts: Vec<String> = prefixes
        .iter()
        .take(max)
        .map(
            |prefix| match prefix.prefix_len() == prefix.max_prefix_len() {
                true => prefix.addr().to_string(),
                false => prefix.to_string(),
            },
        )
        .collect();
    let more = prefixes.len().saturating_sub(max);
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    texts.join(", ") + &rest
}

/// Ends the pipe to the process that started us, and writes to the log from now on.
fn cut_off(log: &PathBuf) {
    let mut options = fs::OpenOptions::new();
    let opened = options.create(true).append(true).mode(0o600).open(log);
    if let Ok(file) = &opened {
        // The user who called sudo may read it.
        let _ = fchown(file, dirs::sudo_caller(), None);
    }
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null");
    if let Ok(null) = null {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = match opened {
            Ok(log) => nix::unistd::dup2_stderr(log),
            Err(_) => nix::unistd::dup2_stderr(&null),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_short_and_plain() {
        let prefixes: Vec<ipnet::IpNet> = ["10.0.100.50/32", "10.0.0.0/16"]
            .iter()
            .map(|t| t.parse().unwrap())
            .collect();
        assert_eq!(list(&prefixes, 9), "10.0.100.50, 10.0.0.0/16");
        assert_eq!(list(&prefixes, 1), "10.0.100.50 and 1 more");
        assert_eq!(list(&[], 9), "none");
    }
}
