//! Collects the problems of one object.

use std::{fmt::Display, sync::Arc};

use kube::Resource;
use masque_api::Reason;

use crate::{Kind, ObjectRef, Origin, Problem, Severity, Sourced};

/// Collects the problems of one object.
pub(crate) struct Report<'a> {
    object: ObjectRef,
    origin: Option<Arc<Origin>>,
    problems: &'a mut Vec<Problem>,
    failed: bool,
}

impl<'a> Report<'a> {
    pub(crate) fn new<T: Resource>(
        kind: Kind,
        sourced: &Sourced<T>,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        Self {
            object: ObjectRef::new(kind, sourced.name()),
            origin: sourced.origin.clone(),
            problems,
            failed: false,
        }
    }

    /// Whether there was an error.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// The object, or the part of it under `field`, is left out.
    pub(crate) fn error(
        &mut self,
        field: &str,
        reason: Reason,
        message: impl Display,
        hint: impl Display,
    ) {
        self.failed = true;
        self.push(Severity::Error, field, reason, &message, &hint);
    }

    /// A field is wrong.
    pub(crate) fn invalid(&mut self, field: &str, message: impl Display, hint: impl Display) {
        self.error(field, Reason::Invalid, message, hint);
    }

    /// The object is in force nonetheless.
    pub(crate) fn warn(
        &mut self,
        field: &str,
        reason: Reason,
        message: impl Display,
        hint: impl Display,
    ) {
        self.push(Severity::Warning, field, reason, &message, &hint);
    }

    fn push(
        &mut self,
        severity: Severity,
        field: &str,
        reason: Reason,
        message: &dyn Display,
        hint: &dyn Display,
    ) {
        self.problems.push(Problem {
            location: self.origin.as_ref().map(|origin| origin.locate(field)),
            object: Some(self.object.clone()),
            field: field.to_owned(),
            severity,
            condition: reason.condition(),
            reason,
            message: message.to_string(),
            hint: hint.to_string(),
        });
    }
}
