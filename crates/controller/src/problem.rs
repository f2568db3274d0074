//! What is wrong with a manifest, where, and what would be right.

use std::fmt;

use masque_api::{ConditionType, Reason};
use masque_model::ObjectName;

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The gateways of one VPC.
    VPCIngressPoint,
    /// One connector bound to one VPC.
    ConnectorAttachment,
    /// Who may reach what.
    VPCAccessPolicy,
    /// The upstream Connector.
    Connector,
    /// A Secret of the core API.
    Secret,
    /// A VPC of any group.
    Vpc,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: &[Self] = &[
        Self::VPCIngressPoint,
        Self::ConnectorAttachment,
        Self::VPCAccessPolicy,
        Self::Connector,
        Self::Secret,
        Self::Vpc,
    ];

    /// The kinds that this project defines.
    pub(crate) const OURS: &[Self] = &[
        Self::VPCIngressPoint,
        Self::ConnectorAttachment,
        Self::VPCAccessPolicy,
    ];

    /// The kind as written in a manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VPCIngressPoint => "VPCIngressPoint",
            Self::ConnectorAttachment => "ConnectorAttachment",
            Self::VPCAccessPolicy => "VPCAccessPolicy",
            Self::Connector => "Connector",
            Self::Secret => "Secret",
            Self::Vpc => "VPC",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object, or the part that the problem names, is not in force.
    Error,
    /// The object is in force; something about it is probably not meant.
    Warning,
}

/// An object as a problem names it. Free text, because the kind may be one we do not know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The kind as written.
    pub kind: String,
    /// Namespace and name.
    pub name: ObjectName,
}

impl ObjectRef {
    /// Names an object of a known kind.
    pub fn new(kind: Kind, name: ObjectName) -> Self {
        Self {
            kind: kind.as_str().to_owned(),
            name,
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The file's name inside its folder.
    pub file: String,
    /// The line, counted from 1; 0 means the whole file.
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// One thing that is wrong. Displays as one line:
/// `gateway.yaml:12: VPCIngressPoint default/prod: spec.addressPools[0].cidr: 10.0.100.1/24 has host
/// bits set; write 10.0.100.0/24`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// Where it stands, when it came from a file.
    pub location: Option<Location>,
    /// The object, when the text got as far as naming one.
    pub object: Option<ObjectRef>,
    /// The field, such as `spec.addressPools[0].cidr`; empty for the whole object.
    pub field: String,
    /// How bad it is.
    pub severity: Severity,
    /// The condition that becomes False.
    pub condition: ConditionType,
    /// The reason in that condition; stable.
    pub reason: Reason,
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty.
    pub hint: String,
}

impl Problem {
    /// Whether the object, or the part named, is left out.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_line() {
        let mut problem = Problem {
            location: Some(Location {
                file: "gateway.yaml".into(),
                line: 12,
            }),
            object: Some(ObjectRef::new(
                Kind::VPCIngressPoint,
                ObjectName::new("default", "prod"),
            )),
            field: "spec.addressPools[0].cidr".into(),
            severity: Severity::Error,
            condition: ConditionType::Accepted,
            reason: Reason::Invalid,
            message: "10.0.100.1/24 has host bits set".into(),
            hint: "write 10.0.100.0/24".into(),
        };
        assert_eq!(
            problem.to_string(),
            "gateway.yaml:12: VPCIngressPoint default/prod: spec.addressPools[0].cidr: \
             10.0.100.1/24 has host bits set; write 10.0.100.0/24"
        );
        problem.severity = Severity::Warning;
        problem.field.clear();
        problem.hint.clear();
        problem.location = None;
        assert_eq!(
            problem.to_string(),
            "warning: VPCIngressPoint default/prod: 10.0.100.1/24 has host bits set"
        );
    }
}
