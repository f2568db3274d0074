//! `masque-gateway explain`: what becomes of a flow, and which rule decides.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};
use masque_gateway_core::{Explained, FlowQuestion, PolicyVerdict, Tables};
use masque_model::Direction;
use masque_packet::protocol;
use serde::{Deserialize, Serialize};

use crate::{
    args::AskArgs,
    exit::Fatal,
    local::{asked, print_json},
    report::Ask,
};

/// The command line of the question.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The ConnectorAttachment: NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "NAME")]
    attachment: String,
    /// The address in the VPC, and the port that the flow goes to: 10.0.1.10:443, [fd20::1]:443, or
    /// an address alone.
    #[arg(long, value_name = "ADDR[:PORT]")]
    to: Remote,
    /// The protocol [default: tcp with a port, icmp without].
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// The workload at that address opens the flow; the port is then the client's.
    #[arg(long)]
    from_vpc: bool,
    /// Only this VPC or VPCIngressPoint, where several serve an attachment of that name.
    #[arg(long, value_name = "NAME")]
    vpc: Option<String>,
    #[command(flatten)]
    ask: AskArgs,
}

/// Address and port of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remote {
    address: IpAddr,
    port: Option<u16>,
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(both) = text.parse::<SocketAddr>() {
            return Ok(Self {
                address: both.ip(),
                port: Some(both.port()),
            });
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let address = bare.unwrap_or(text).parse::<IpAddr>();
        let address = address.map_err(
            |_| "neither an address nor ADDRESS:PORT, such as 10.0.1.10:443 or [fd20::1]:443",
        )?;
        Ok(Self {
            address,
            port: None,
        })
    }
}

/// The protocols that people ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// Has ports.
    Tcp,
    /// Has ports.
    Udp,
    /// Of the address's family; ICMPv6 too.
    Icmp,
}

impl Protocol {
    fn number(self, address: IpAddr) -> u8 {
        match (self, address) {
            (Self::Tcp, _) => protocol::TCP,
            (Self::Udp, _) => protocol::UDP,
            (Self::Icmp, IpAddr::V4(_)) => protocol::ICMP,
            (Self::Icmp, IpAddr::V6(_)) => protocol::ICMPV6,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
        }
    }
}

/// A flow to ask a running gateway about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Question {
    attachment: String,
    vpc: Option<String>,
    address: IpAddr,
    protocol: Protocol,
    port: Option<u16>,
    from_vpc: bool,
}

/// What becomes of the flow at one ingress point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExplainReport {
    /// The ConnectorAttachment, `namespace/name`.
    attachment: String,
    /// The VPC, `namespace/name`.
    vpc: String,
    /// The VPCIngressPoint, `namespace/name`.
    ingress_point: String,
    /// Whether it passes.
    allowed: bool,
    /// Why its first packet is dropped, as `masque_gateway_drops_total` has it.
    drop_reason: Option<String>,
    /// The rule that decides, `namespace/policy/rule`; none when no rule does.
    rule: Option<String>,
    /// When the permission ends by itself, in seconds since the Unix epoch.
    until_unix_s: Option<u64>,
    /// The rule in Audit mode that would deny it.
    audit_denied_by: Option<String>,
    /// Every rule in Enforce mode that matches.
    matching: Vec<String>,
    /// Rules that would match but have ended (`notAfter`).
    expired: Vec<String>,
    /// All of that in a sentence.
    text: String,
}

impl From<Explained> for ExplainReport {
    fn from(explained: Explained) -> Self {
        let explanation = explained.explanation;
        let names = |rules: &[_]| rules.iter().map(ToString::to_string).collect();
        Self {
            attachment: explained.attachment.to_string(),
            vpc: explained.vpc.to_string(),
            ingress_point: explained.ingress_point.to_string(),
            allowed: explanation.verdict == PolicyVerdict::Allowed,
            drop_reason: match explanation.verdict {
                PolicyVerdict::Allowed => None,
                PolicyVerdict::Dropped(reason) => Some(reason.as_str().to_owned()),
            },
            rule: explanation.decided_by.as_ref().map(ToString::to_string),
            until_unix_s: explanation.until_unix_s,
            audit_denied_by: explanation
                .audit_denied_by
                .as_ref()
                .map(ToString::to_string),
            matching: names(&explanation.matching),
            expired: names(&explanation.expired),
            text: explanation.to_string(),
        }
    }
}

/// What a running gateway answers by the tables of the moment.
///
/// # Errors
/// A sentence when it does not know the attachment or the VPC.
pub(crate) fn answer(question: &Question, tables: &Tables) -> Result<Vec<ExplainReport>, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let flow = FlowQuestion {
        direction: if question.from_vpc {
            Direction::FromVpc
        } else {
            Direction::ToVpc
        },
        remote: question.address,
        protocol: question.protocol.number(question.address),
        port: question.port.unwrap_or_default(),
        unix_s: now.unwrap_or_default().as_secs(),
    };
    let explained = tables.explain(question.vpc.as_deref(), &question.attachment, &flow);
    let explained = explained.map_err(|error| error.to_string())?;
    Ok(explained.into_iter().map(ExplainReport::from).collect())
}

impl ExplainArgs {
    fn question(&self) -> Result<Question, Fatal> {
        let by_port = match self.to.port {
            Some(_) => Protocol::Tcp,
            None => Protocol::Icmp,
        };
        let protocol = self.protocol.unwrap_or(by_port);
        let address = self.to.address;
        match (protocol, self.to.port) {
            (Protocol::Icmp, Some(_)) => Err(Fatal::Usage(format!(
                "ICMP has no ports; give --to {address}"
            ))),
            (Protocol::Tcp | Protocol::Udp, None) => Err(Fatal::Usage(format!(
                "which port? give --to {}",
                SocketAddr::new(address, 443)
            ))),
            (_, port) => Ok(Question {
                attachment: self.attachment.clone(),
                vpc: self.vpc.clone(),
                address,
                protocol,
                port,
                from_vpc: self.from_vpc,
            }),
        }
    }
}

impl Question {
    /// The flow for people, its opener first.
    fn describe(&self, attachment: &str) -> String {
        let (address, protocol) = (self.address, self.protocol.name());
        let port = self.port.map(|port| format!(" port {port}"));
        let port = port.unwrap_or_default();
        if self.from_vpc {
            format!("{address} to {attachment}, {protocol}{port}")
        } else {
            format!("{attachment} to {address}, {protocol}{port}")
        }
    }
}

/// `masque-gateway explain`.
///
/// # Errors
/// [`Fatal::NotRunning`] when no gateway answers, [`Fatal::Usage`] when it does not know the
/// attachment.
pub(crate) fn print(args: &ExplainArgs) -> Result<(), Fatal> {
    let question = args.question()?;
    let answer: Result<Vec<ExplainReport>, String> =
        asked(&args.ask, &Ask::Explain(question.clone()))?;
    let reports = answer.map_err(Fatal::Usage)?;
    if args.ask.json {
        return print_json(&reports);
    }
    for report in reports {
        let flow = question.describe(&report.attachment);
        println!("{flow} ({}): {}", report.vpc, report.text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn question(args: &[&str]) -> Result<Question, Fatal> {
        let line = ["masque-gateway", "explain", "--attachment", "laptop"];
        let cli = Cli::try_parse_from(line.iter().chain(args)).unwrap();
        let Some(Command::Explain(args)) = cli.command else {
            panic!("{args:?}");
        };
        args.question()
    }

    #[test]
    fn protocol_and_port_follow_from_each_other() {
        for (args, protocol, port) in [
            (&["--to", "10.0.1.10:443"][..], Protocol::Tcp, Some(443)),
            (&["--to", "10.0.1.10"], Protocol::Icmp, None),
            (&["--to", "[fd20::1]"], Protocol::Icmp, None),
            (&["--to", "fd20::1"], Protocol::Icmp, None),
            (
                &["--to", "[fd20::1]:53", "--protocol", "udp"],
                Protocol::Udp,
                Some(53),
            ),
        ] {
            let question = question(args).unwrap();
            assert_eq!((question.protocol, question.port), (protocol, port));
        }
        for args in [
            &["--to", "10.0.1.10", "--protocol", "tcp"][..],
            &["--to", "10.0.1.10:1", "--protocol", "icmp"],
        ] {
            assert!(matches!(question(args), Err(Fatal::Usage(_))), "{args:?}");
        }
        assert!("example.com:443".parse::<Remote>().is_err());
    }

    #[test]
    fn who_opens_the_flow_comes_first() {
        let to = question(&["--to", "10.0.1.10:443"]).unwrap();
        assert_eq!(to.describe("a/b"), "a/b to 10.0.1.10, TCP port 443");
        let from = question(&["--to", "10.0.1.10", "--from-vpc"]).unwrap();
        assert_eq!(from.describe("a/b"), "10.0.1.10 to a/b, ICMP");
    }

    #[test]
    fn the_longest_question_fits_the_socket() {
        let name = "n".repeat(253);
        let attachment = format!("{}/{name}", "s".repeat(63));
        let question = Question {
            vpc: Some(attachment.clone()),
            attachment,
            address: IpAddr::from([u16::MAX; 8]),
            protocol: Protocol::Icmp,
            port: Some(u16::MAX),
            from_vpc: false,
        };
        let line = serde_json::to_string(&Ask::Explain(question.clone())).unwrap();
        assert!((line.len() as u64) < crate::local::MAX_ASK_BYTES, "{line}");
        let read: Ask = serde_json::from_str(&line).unwrap();
        assert_eq!(read, Ask::Explain(question));
    }

    #[test]
    fn an_unknown_attachment_is_told_by_name() {
        let question = question(&["--to", "10.0.1.10"]).unwrap();
        let error = answer(&question, &Tables::default()).unwrap_err();
        assert!(error.contains("`laptop`"), "{error}");
    }
}
