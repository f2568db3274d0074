//! What is measured, and how each figure is printed.

pub(crate) mod echo;
pub(crate) mod tcp;
pub(crate) mod udp;

/// One number of one configuration in one mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// One stream, client to workload.
    Tcp1,
    /// Four streams, client to workload.
    Tcp4,
    /// One stream, workload to client.
    Reverse,
    /// All processors together, per gigabyte of [`Figure::Tcp1`].
    CpuAll,
    /// The client process.
    CpuClient,
    /// The gateway process.
    CpuGateway,
    /// All processors together, per gigabyte of [`Figure::Reverse`].
    CpuAllReverse,
    /// The gateway process likewise.
    CpuGatewayReverse,
    /// 64-byte UDP ping-pong, nothing else running.
    RttP50,
    /// Its 99th percentile.
    RttP99,
    /// The same while four TCP streams run.
    LoadedP50,
    /// Its 99th percentile.
    LoadedP99,
    /// 64-byte UDP packets a second that all arrive.
    Udp,
}

impl Figure {
    pub(crate) const ALL: [Self; 13] = [
        Self::Tcp1,
        Self::Tcp4,
        Self::Reverse,
        Self::CpuAll,
        Self::CpuClient,
        Self::CpuGateway,
        Self::CpuAllReverse,
        Self::CpuGatewayReverse,
        Self::RttP50,
        Self::RttP99,
        Self::LoadedP50,
        Self::LoadedP99,
        Self::Udp,
    ];

    /// The key in the JSON file: name and unit.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1_gbit_s",
            Self::Tcp4 => "tcp4_gbit_s",
            Self::Reverse => "tcp1_reverse_gbit_s",
            Self::CpuAll => "cpu_all_s_per_gb",
            Self::CpuClient => "cpu_client_s_per_gb",
            Self::CpuGateway => "cpu_gateway_s_per_gb",
            Self::CpuAllReverse => "cpu_all_reverse_s_per_gb",
            Self::CpuGatewayReverse => "cpu_gateway_reverse_s_per_gb",
            Self::RttP50 => "rtt_p50_us",
            Self::RttP99 => "rtt_p99_us",
            Self::LoadedP50 => "rtt_loaded_p50_us",
            Self::LoadedP99 => "rtt_loaded_p99_us",
            Self::Udp => "udp64_kpackets_s",
        }
    }

    /// Column title and unit.
    pub(crate) fn title(self) -> (&'static str, &'static str) {
        match self {
            Self::Tcp1 => ("tcp 1", "Gbit/s"),
            Self::Tcp4 => ("tcp 4", "Gbit/s"),
            Self::Reverse => ("reverse", "Gbit/s"),
            Self::CpuAll => ("cpu all", "s/GB"),
            Self::CpuClient => ("client", "s/GB"),
            Self::CpuGateway => ("gateway", "s/GB"),
            Self::CpuAllReverse => ("rev all", "s/GB"),
            Self::CpuGatewayReverse => ("rev gw", "s/GB"),
            Self::RttP50 => ("rtt p50", "us"),
            Self::RttP99 => ("rtt p99", "us"),
            Self::LoadedP50 => ("loaded p50", "us"),
            Self::LoadedP99 => ("loaded p99", "us"),
            Self::Udp => ("udp 64 B", "kp/s"),
        }
    }
}
