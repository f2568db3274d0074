//! Condition types and reasons: a stable vocabulary that status, problems and runbooks share.

use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$var_doc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$var_doc])* $variant,)*
        }

        impl $name {
            /// Every word, in the order of the reference.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word as it stands in a condition.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// The `type` of a condition.
    ConditionType {
        /// The spec makes sense and is in force.
        Accepted,
        /// Every reference leads somewhere.
        ResolvedRefs,
        /// Every ready gateway pod acknowledged this generation.
        Programmed,
        /// Workloads can reach the clients' addresses.
        FabricReady,
        /// The attachment has a session.
        Connected,
        /// Gateways are shutting down.
        Draining,
        /// Less than what was asked for is running.
        Degraded,
        /// The summary for people and for kstatus.
        Ready,
        /// Work is under way; present only meanwhile (kstatus).
        Reconciling,
        /// Nothing more happens before somebody changes something; present only meanwhile (kstatus).
        Stalled,
    }
}

words! {
    /// The `reason` of a condition.
    Reason {
        /// Accepted.
        Accepted,
        /// Nobody looked at the object yet.
        Pending,
        /// A field is wrong.
        Invalid,
        /// An older object has the same key, pool, address, port or path.
        Conflicted,
        /// The ingress point's selector leaves this attachment out.
        NotAllowedByIngressPoint,
        /// Suspended by its owner.
        Suspended,
        /// All references lead somewhere.
        ResolvedRefs,
        /// No Connector of that name.
        ConnectorNotFound,
        /// The Connector has not published its key.
        ConnectorKeyMissing,
        /// The Connector's key is not an Ed25519 key.
        ConnectorKeyMalformed,
        /// No VPC of that name.
        VPCNotFound,
        /// The VPC has no VPCIngressPoint here.
        NoIngressPoint,
        /// No Secret of that name.
        CertificateNotFound,
        /// The Secret holds no usable certificate and key.
        CertificateInvalid,
        /// The reference crosses a namespace without permission.
        RefNotPermitted,
        /// The policy's target does not exist.
        TargetNotFound,
        /// Gateways run it.
        Programmed,
        /// No gateway pod is ready.
        WaitingForPods,
        /// A gateway pod did not acknowledge yet.
        WaitingForAck,
        /// A gateway pod refused the snapshot.
        RejectedByGateway,
        /// Pod security admission refused the gateway pods.
        PodSecurityForbidden,
        /// The snapshot is larger than a pod takes.
        SnapshotTooLarge,
        /// The address is not in a pool, reserved or taken.
        AddressUnavailable,
        /// No address is left.
        PoolExhausted,
        /// The prefix is not one of the VPC's.
        RouteOutsideVPC,
        /// The fabric knows the clients.
        FabricReady,
        /// The fabric's control plane does not answer.
        ProviderUnavailable,
        /// A SID is missing.
        SIDNotRegistered,
        /// The fabric refused the announcement.
        AnnouncementRejected,
        /// There is a session.
        SessionEstablished,
        /// There is no session.
        NoSession,
        /// Gateway pods move their sessions away.
        Draining,
        /// Fewer pods are ready than were asked for.
        PodsNotReady,
        /// A node cannot pull the gateway's image.
        ImagePullFailed,
        /// No node takes a gateway pod.
        PodUnschedulable,
        /// A gateway pod starts and ends again and again.
        PodCrashing,
        /// The API server refused to make gateway pods.
        FailedCreate,
        /// All is well.
        Ready,
    }
}

impl Reason {
    /// The condition that this reason belongs to.
    pub const fn condition(self) -> ConditionType {
        match self {
            Self::Accepted
            | Self::Pending
            | Self::Invalid
            | Self::Conflicted
            | Self::NotAllowedByIngressPoint
            | Self::Suspended => ConditionType::Accepted,
            Self::ResolvedRefs
            | Self::ConnectorNotFound
            | Self::ConnectorKeyMissing
            | Self::ConnectorKeyMalformed
            | Self::VPCNotFound
            | Self::NoIngressPoint
            | Self::CertificateNotFound
            | Self::CertificateInvalid
            | Self::RefNotPermitted
            | Self::TargetNotFound => ConditionType::ResolvedRefs,
            Self::Programmed
            | Self::WaitingForPods
            | Self::WaitingForAck
            | Self::RejectedByGateway
            | Self::PodSecurityForbidden
            | Self::SnapshotTooLarge
            | Self::AddressUnavailable
            | Self::PoolExhausted
            | Self::RouteOutsideVPC => ConditionType::Programmed,
            Self::FabricReady
            | Self::ProviderUnavailable
            | Self::SIDNotRegistered
            | Self::AnnouncementRejected => ConditionType::FabricReady,
            Self::SessionEstablished | Self::NoSession => ConditionType::Connected,
            Self::Draining => ConditionType::Draining,
            Self::PodsNotReady
            | Self::ImagePullFailed
            | Self::PodUnschedulable
            | Self::PodCrashing
            | Self::FailedCreate => ConditionType::Degraded,
            Self::Ready => ConditionType::Ready,
        }
    }
}
