//! What a pod says of its sessions.

use std::collections::BTreeMap;

use masque_model::ObjectName;

use crate::{
    bounds::{MAX_CHANGES_PER_REPORT, MAX_NAME_BYTES, MAX_SESSIONS_PER_POD, MAX_TRANSPORT_BYTES},
    wire,
};

/// One session of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionInfo {
    /// Unique while the gateway process runs.
    pub id: u64,
    /// The ConnectorAttachment.
    pub attachment: ObjectName,
    /// `h3` for HTTP/3 over QUIC.
    pub transport: String,
    /// When it was accepted, in seconds since 1970.
    pub since_unix_s: u64,
}

/// Sessions by number.
pub(crate) type Sessions = BTreeMap<u64, SessionInfo>;

/// Why a report is not taken; the stream ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReportError {
    #[error("a report has at most {MAX_CHANGES_PER_REPORT} changes")]
    TooManyChanges,
    #[error("a pod has at most {MAX_SESSIONS_PER_POD} sessions")]
    TooManySessions,
    #[error(
        "a name in a report is longer than {MAX_NAME_BYTES} bytes, or a transport longer than \
         {MAX_TRANSPORT_BYTES}"
    )]
    LongText,
}

/// What turns `told` into `now`, in messages of at most [`MAX_CHANGES_PER_REPORT`] changes; the first
/// one of a stream (`told` is `None`) resets what the operator knew. Sessions beyond
/// [`MAX_SESSIONS_PER_POD`] are left out, those with the greatest numbers.
pub(crate) fn reports(told: Option<&Sessions>, now: &Sessions) -> Vec<wire::Sessions> {
    let nothing = Sessions::new();
    let before = told.unwrap_or(&nothing);
    let within = || now.iter().take(MAX_SESSIONS_PER_POD);
    let last = within().next_back().map(|(id, _)| *id);
    let ended: Vec<u64> = before
        .keys()
        .filter(|id| !now.contains_key(id) || Some(**id) > last)
        .copied()
        .collect();
    let begun: Vec<wire::Session> = within()
        .filter(|(id, session)| before.get(id) != Some(session))
        .map(|(_, session)| message(session))
        .collect();
    let mut messages = Vec::new();
    // Those that ended come first, so that the count never exceeds its bound on the way.
    for ended in ended.chunks(MAX_CHANGES_PER_REPORT) {
        messages.push(wire::Sessions {
            ended: ended.to_vec(),
            ..wire::Sessions::default()
        });
    }
    for begun in begun.chunks(MAX_CHANGES_PER_REPORT) {
        messages.push(wire::Sessions {
            begun: begun.to_vec(),
            ..wire::Sessions::default()
        });
    }
    if told.is_none() {
        if messages.is_empty() {
            messages.push(wire::Sessions::default());
        }
        if let Some(first) = messages.first_mut() {
            first.reset = true;
        }
    }
    messages
}

/// The sessions that a client tells, as one keeps them to compare with.
pub(crate) fn bounded(sessions: Sessions) -> Sessions {
    sessions.into_iter().take(MAX_SESSIONS_PER_POD).collect()
}

/// Takes a report in. Whether anything changed.
///
/// # Errors
/// [`ReportError`]; nothing has changed.
pub(crate) fn take(sessions: &mut Sessions, report: wire::Sessions) -> Result<bool, ReportError> {
    if report.begun.len() + report.ended.len() > MAX_CHANGES_PER_REPORT {
        return Err(ReportError::TooManyChanges);
    }
    let long = |s: &wire::Session| {
        s.namespace.len() > MAX_NAME_BYTES
            || s.attachment.len() > MAX_NAME_BYTES
            || s.transport.len() > MAX_TRANSPORT_BYTES
    };
    if report.begun.iter().any(long) {
        return Err(ReportError::LongText);
    }
    let known = if report.reset { 0 } else { sessions.len() };
    let ended = report.ended.iter().filter(|id| sessions.contains_key(id));
    let gone = if report.reset { 0 } else { ended.count() };
    let new = report
        .begun
        .iter()
        .filter(|s| report.reset || !sessions.contains_key(&s.id))
        .count();
    if (known + new).saturating_sub(gone) > MAX_SESSIONS_PER_POD {
        return Err(ReportError::TooManySessions);
    }
    let changes = !report.begun.is_empty() || !report.ended.is_empty();
    let changed = changes || (report.reset && !sessions.is_empty());
    if report.reset {
        sessions.clear();
    }
    for id in &report.ended {
        sessions.remove(id);
    }
    for session in report.begun {
        let info = SessionInfo {
            id: session.id,
            attachment: ObjectName::new(session.namespace, session.attachment),
            transport: session.transport,
            since_unix_s: session.since_unix_s,
        };
        sessions.insert(info.id, info);
    }
    Ok(changed)
}

fn message(session: &SessionInfo) -> wire::Session {
    wire::Session {
        id: session.id,
        namespace: session.attachment.namespace.clone(),
        attachment: session.attachment.name.clone(),
        transport: session.transport.clone(),
        since_unix_s: session.since_unix_s,
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
