//! Conditions of one object.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use masque_api::{ConditionType, Reason};

use crate::Problem;

/// The longest message, in bytes; the API takes 32 KiB, people take less.
const MAX_MESSAGE_BYTES: usize = 1024;

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) good: bool,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn good(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            good: true,
            reason,
            message: message.into(),
        }
    }

    pub(super) fn bad(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            good: false,
            reason,
            message: message.into(),
        }
    }
}

/// Conditions under construction.
pub(super) struct Conditions<'a> {
    previous: &'a [Condition],
    generation: Option<i64>,
    now: Timestamp,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    pub(super) fn new(previous: &'a [Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self {
            previous,
            generation,
            now,
            list: Vec::new(),
        }
    }

    /// Adds a condition. Its time is the former one unless its status flipped.
    pub(super) fn set(&mut self, type_: ConditionType, verdict: &Verdict) {
        let status = if verdict.good { "True" } else { "False" };
        let former = self.former(type_).filter(|former| former.status == status);
        let time = former.map_or(Time(self.now), |former| former.last_transition_time.clone());
        self.list.push(Condition {
            type_: type_.as_str().to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.as_str().to_owned(),
            message: cut(&verdict.message),
            observed_generation: self.generation,
            last_transition_time: time,
        });
    }

    /// Whether this very thing was said of this generation before, and it was good.
    pub(super) fn was(&self, type_: ConditionType, verdict: &Verdict) -> bool {
        self.former(type_).is_some_and(|former| {
            former.status == "True"
                && former.observed_generation == self.generation
                && former.message == cut(&verdict.message)
        })
    }

    /// The status that a condition had.
    pub(super) fn former(&self, type_: ConditionType) -> Option<&'a Condition> {
        self.previous
            .iter()
            .find(|condition| condition.type_ == type_.as_str())
    }

    /// Ready from the first verdict that is in the way, and what kstatus wants to know: Stalled when
    /// somebody has to change something, else Reconciling.
    pub(super) fn summarize(&mut self, blocking: Option<&Verdict>, stalled: bool) {
        let Some(blocking) = blocking else {
            self.set(ConditionType::Ready, &Verdict::good(Reason::Ready, ""));
            return;
        };
        self.set(ConditionType::Ready, blocking);
        let abnormal = Verdict::good(blocking.reason, &*blocking.message);
        let type_ = if stalled {
            ConditionType::Stalled
        } else {
            ConditionType::Reconciling
        };
        self.set(type_, &abnormal);
    }

    pub(super) fn finish(self) -> Vec<Condition> {
        self.list
    }
}

/// The verdict of the problems with one condition; `good` when there is none. Errors come before
/// warnings and say the reason.
pub(super) fn verdict(problems: &[&Problem], type_: ConditionType, good: Reason) -> Verdict {
    let mut found: Vec<_> = problems
        .iter()
        .filter(|problem| problem.condition == type_)
        .collect();
    found.sort_by_key(|problem| problem.severity);
    match found.first() {
        Some(first) => Verdict::bad(first.reason, said(&found)),
        None => Verdict::good(good, ""),
    }
}

/// Whether there is an error about a condition.
pub(super) fn fails(problems: &[&Problem], type_: ConditionType) -> bool {
    problems
        .iter()
        .any(|problem| problem.condition == type_ && problem.is_error())
}

/// Problems as one text. Locations are left out: they name files.
fn said(problems: &[&&Problem]) -> String {
    let texts = problems.iter().map(|problem| {
        let mut text = String::new();
        if !problem.field.is_empty() {
            text = format!("{}: ", problem.field);
        }
        text += &problem.message;
        if !problem.hint.is_empty() {
            text = format!("{text}; {}", problem.hint);
        }
        text
    });
    texts.collect::<Vec<_>>().join(". ")
}

fn cut(text: &str) -> String {
    if text.len() <= MAX_MESSAGE_BYTES {
        return text.to_owned();
    }
    let mut end = MAX_MESSAGE_BYTES - 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}
