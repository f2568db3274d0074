//! `datum-connect status`.

use std::fmt::Write;

use masque_client::{ConnectorIdentity, Phase};
use serde::Serialize;

use crate::{
    args::StatusArgs,
    control::{self, Running},
    dirs::Dirs,
    failure::Failure,
    profile::{ConnectorSettings, Profile},
};

/// Everything about this machine's connector.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    connector: String,
    /// Whether there is a key to attach with.
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    protocol: &'static str,
    attachments: Vec<Running>,
}

/// Prints what runs.
pub(crate) fn run(args: &StatusArgs, dirs: &Dirs) -> Result<(), Failure> {
    let key = Profile::key_in_use(dirs, args.vpc.as_ref());
    let identity = ConnectorIdentity::load(&key).ok();
    let (mut found, hidden) = match &args.vpc {
        Some(_) => (vec![control::find(dirs, args.vpc.as_ref())?], false),
        None => {
            let all = control::attachments(dirs)?;
            (all.found, all.hidden)
        }
    };
    let report = Report {
        connector: ConnectorSettings::of_key(dirs, &key)?.connector(),
        ready: identity.is_some(),
        id: identity.map(|identity| identity.public_id().hex()),
        protocol: "MASQUE",
        attachments: found
            .iter_mut()
            .map(|a| a.status())
            .collect::<Result<_, _>>()?,
    };
    if hidden {
        say!("attachments of other users are not shown: `sudo datum-connect status` shows root's");
    }
    if args.json {
        return super::print_json(&report);
    }
    super::print(&text(&report))
}

/// The form of the design document; lines it does not have follow further indented.
fn text(report: &Report) -> String {
    let ready = if report.ready { "Ready" } else { "NoKey" };
    let mut text = format!(
        "Connector: {} ({ready})\nProtocol: {}\n",
        report.connector, report.protocol
    );
    text.push_str("VPC Attachments:\n");
    if report.attachments.is_empty() {
        text.push_str("  (none)\n");
    }
    for running in &report.attachments {
        let status = &running.status;
        let address = status
            .assigned_ip()
            .map_or_else(|| "-".to_owned(), |ip| ip.to_string());
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  - {}: {address} ({:?})", running.vpc, status.phase);
        if status.phase == Phase::Connected {
            continue;
        }
        if let Some(reason) = &status.reason {
            let _ = write!(text, "      {reason}");
            if let Some(advice) = &status.advice {
                let _ = write!(text, "; {advice}");
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use masque_client::Status;

    use super::*;

    fn report(attachments: Vec<Running>) -> Report {
        Report {
            connector: "developer-laptop".into(),
            ready: true,
            id: None,
            protocol: "MASQUE",
            attachments,
        }
    }

    fn running(status: Status) -> Running {
        Running {
            vpc: "production-vpc".into(),
            pid: 1,
            device: "dc0".into(),
            status,
        }
    }

    #[test]
    fn prints_what_the_design_document_shows() {
        let status = Status {
            phase: Phase::Connected,
            addresses: vec![
                "fd20:10::32/128".parse().unwrap(),
                "10.0.100.50/32".parse().unwrap(),
            ],
            ..Status::default()
        };
        assert_eq!(
            text(&report(vec![running(status)])),
            "Connector: developer-laptop (Ready)\n\
             Protocol: MASQUE\n\
             VPC Attachments:\n  - production-vpc: 10.0.100.50 (Connected)\n"
        );
    }

    #[test]
    fn says_why_it_is_not_connected() {
        let status = Status {
            phase: Phase::Reconnecting,
            reason: Some("no answer".into()),
            advice: Some("do this".into()),
            ..Status::default()
        };
        let text = text(&report(vec![running(status)]));
        assert!(
            text.ends_with("  - production-vpc: - (Reconnecting)\n      no answer; do this\n"),
            "{text}"
        );
    }

    #[test]
    fn json_is_flat_per_attachment() {
        let report = report(vec![running(Status {
            transport: "h3".into(),
            ..Status::default()
        })]);
        let json = serde_json::to_value(&report).unwrap();
        let attachment = &json["attachments"][0];
        assert_eq!(attachment["vpc"], "production-vpc");
        for field in [
            "transport",
            "rttUs",
            "mtuBytes",
            "addresses",
            "routes",
            "counters",
            "phase",
        ] {
            assert!(!attachment[field].is_null(), "{field} is missing in {json}");
        }
        assert!(attachment["counters"]["drops"].is_object());
    }
}
