//! What became of an assignment, in words for people.

use std::{fmt, path::Path};

use ipnet::IpNet;
use masque_netlink::NetlinkError;

use super::routes::METRICS;
use crate::failure::{Exit, Failure};

/// Where the kernel keeps the settings of IPv6; missing when it was started without.
const IPV6_SETTINGS: &str = "/proc/sys/net/ipv6/conf";

/// Why this machine cannot be as an assignment says.
#[derive(Debug)]
pub(crate) enum HostError {
    /// The kernel refused.
    Kernel(NetlinkError),
    /// This machine lacks IPv6.
    NoIpv6 {
        /// The setting that turned it off.
        setting: String,
    },
    /// Every metric that we use is taken for this destination.
    NoMetric(IpNet),
}

/// What became of an assignment.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Routes that were left out because they would take the default route.
    pub(crate) left_out: Vec<IpNet>,
    /// Routes that are also networks of this machine, with its interface.
    pub(crate) conflicts: Vec<(IpNet, String)>,
    /// Routes that come after another one of the same destination.
    pub(crate) waiting: Vec<Waiting>,
    /// The IPv6 addresses that were left out, and the setting that turned IPv6 off; said once.
    pub(crate) without_ipv6: Option<(Vec<IpNet>, String)>,
    /// What else could not be set.
    pub(crate) refused: Vec<String>,
}

/// A route that gets no packets while another one is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) destination: IpNet,
    pub(crate) metric: u32,
    /// The device of the attachment that came first; `None` when the other route is no client's.
    pub(crate) first: Option<String>,
}

impl HostError {
    /// Why an address was refused.
    pub(super) fn of_address(error: NetlinkError, address: &IpNet, device: &str) -> Self {
        match error {
            NetlinkError::Forbidden { .. } | NetlinkError::NotSupported { .. }
                if address.addr().is_ipv6() =>
            {
                let setting = ipv6_setting(Path::new(IPV6_SETTINGS), device);
                Self::NoIpv6 { setting }
            }
            error => Self::Kernel(error),
        }
    }
}

impl Applied {
    pub(super) fn refuse(&mut self, error: &impl fmt::Display) {
        self.refused.push(error.to_string());
    }

    /// An address could not be set.
    pub(super) fn leave_out(&mut self, error: &HostError, address: IpNet, told: &mut bool) {
        match error {
            HostError::NoIpv6 { setting } => {
                if let Some((addresses, _)) = &mut self.without_ipv6 {
                    addresses.push(address);
                } else if !std::mem::replace(told, true) {
                    self.without_ipv6 = Some((vec![address], setting.clone()));
                }
            }
            error => self.refuse(error),
        }
    }

    /// One line each of what a person should know: a word, and the rest.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        if let Some((addresses, setting)) = &self.without_ipv6 {
            let addresses: Vec<String> = addresses.iter().map(|a| a.addr().to_string()).collect();
            lines.push((
                "warning",
                format!(
                    "IPv6 is off on this machine ({setting}): {} and the IPv6 routes are left out",
                    addresses.join(", ")
                ),
            ));
        }
        for route in &self.left_out {
            let why = "only --default-route takes the default route";
            lines.push(("left out", format!("{route}: {why}")));
        }
        for (route, link) in &self.conflicts {
            let text = format!("{route} is also this machine's own network on {link}");
            lines.push(("warning", text));
        }
        lines.extend(self.waiting.iter().map(|w| ("warning", w.to_string())));
        lines.extend(self.refused.iter().map(|error| ("warning", error.clone())));
        lines
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            destination,
            metric,
            first,
        } = self;
        match first {
            Some(device) => write!(
                f,
                "{destination} leads through {device}, which came first; through this attachment \
                 (metric {metric}) when that one is gone"
            ),
            None => write!(
                f,
                "{destination} has another route on this machine, which stays and wins; this \
                 attachment's has metric {metric}: `ip route show {destination}`"
            ),
        }
    }
}

impl From<NetlinkError> for HostError {
    fn from(error: NetlinkError) -> Self {
        Self::Kernel(error)
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => error.fmt(f),
            Self::NoIpv6 { setting } => write!(
                f,
                "the gateway assigned IPv6 addresses alone, and IPv6 is off on this machine \
                 ({setting})"
            ),
            Self::NoMetric(destination) => write!(
                f,
                "{destination} has a route of every metric from {} to {}",
                METRICS.start(),
                METRICS.end()
            ),
        }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let (exit, advice) = match &error {
            HostError::Kernel(NetlinkError::NotPermitted { .. }) => (Exit::NoPermission, ""),
            HostError::Kernel(_) => (Exit::Io, ""),
            HostError::NoIpv6 { .. } => (
                Exit::Config,
                "turn it on, or have the gateway assign IPv4: a pool of it in the VPCIngressPoint",
            ),
            HostError::NoMetric(_) => (
                Exit::CannotCreate,
                "end attachments: `datum-connect detach`",
            ),
        };
        Self::new(exit, error.to_string(), advice)
    }
}

/// Which setting turned IPv6 off, as sysctl(8) names it.
fn ipv6_setting(settings: &Path, device: &str) -> String {
    if !settings.exists() {
        return "the kernel was started with ipv6.disable=1".to_owned();
    }
    let is_set = |scope: &&str| {
        let file = settings.join(scope).join("disable_ipv6");
        std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
    };
    let scope = ["all", "default", device].into_iter().find(is_set);
    format!(
        "sysctl net.ipv6.conf.{}.disable_ipv6=1",
        scope.unwrap_or(device)
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_setting_is_named_that_turned_ipv6_off() {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("conf");
        let boot = "the kernel was started with ipv6.disable=1";
        assert_eq!(ipv6_setting(&settings, "dc0"), boot);
        for (scope, value) in [("dc0", "1"), ("default", "1"), ("all", "0")] {
            fs::create_dir_all(settings.join(scope)).unwrap();
            fs::write(settings.join(scope).join("disable_ipv6"), value).unwrap();
            let named = if scope == "all" { "default" } else { scope };
            let expected = format!("sysctl net.ipv6.conf.{named}.disable_ipv6=1");
            assert_eq!(ipv6_setting(&settings, "dc0"), expected);
        }
        fs::write(settings.join("all/disable_ipv6"), "1\n").unwrap();
        let all = "sysctl net.ipv6.conf.all.disable_ipv6=1";
        assert_eq!(ipv6_setting(&settings, "dc0"), all);
    }
}
