//! Kernel settings of a gateway pod.

use masque_api::VPCIngressPoint;

/// Settings of every gateway, by name and value. `default` is for the links that the gateway makes;
/// `eth0` was made before the settings are.
const ALWAYS: [(&str, &str); 9] = [
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.eth0.rp_filter", "0"),
    ("net.ipv4.ip_forward", "1"),
    // Listeners on ports below 1024 without the capability NET_BIND_SERVICE.
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.conf.all.seg6_enabled", "1"),
    // The TUN has no link-local address of its own.
    ("net.ipv6.conf.default.addr_gen_mode", "1"),
    ("net.ipv6.conf.default.seg6_enabled", "1"),
];

/// End.DT46 wants a table to belong to exactly one VRF.
const STRICT_MODE: (&str, &str) = ("net.vrf.strict_mode", "1");

/// The kernel settings that the pods of an ingress point need, in order of their names.
///
/// All but `ip_unprivileged_port_start` are unsafe ones in the words of Kubernetes: a kubelet
/// refuses the pod (`SysctlForbidden`) unless `--allowed-unsafe-sysctls` names them.
pub fn sysctls(point: &VPCIngressPoint) -> Vec<(&'static str, &'static str)> {
    let mut sysctls = ALWAYS.to_vec();
    let fabric = point.spec.fabric.static_.as_ref();
    let ipv4 = |cidr: &masque_api::Cidr| !cidr.as_str().contains(':');
    let uses_ipv4 = point.spec.address_pools.iter().any(|pool| ipv4(&pool.cidr))
        || point.spec.routes.iter().any(ipv4);
    // With a SID for IPv4 of its own the kernel needs no VRF, and may not have any.
    if uses_ipv4 && fabric.is_some_and(|fabric| fabric.local_sid_ipv4.is_none()) {
        sysctls.push(STRICT_MODE);
    }
    sysctls
}
