//! Whether what an operator sent runs wholly.

use masque_model::{ListenerProtocol, ObjectName, Snapshot};

use super::Supervisor;
use crate::source::Origin;

impl Supervisor {
    /// What the operator wants from now on; [`reload`](Self::reload) carries it out.
    pub(crate) fn follow(&mut self, wanted: Snapshot) {
        if let Origin::Operator { snapshot, .. } = &mut self.origin {
            *snapshot = Some(Box::new(wanted));
        }
    }

    /// Whether the operator's Snapshot runs: tables, device, routes, listeners and certificates are
    /// as it says.
    ///
    /// # Errors
    /// One sentence: what is wrong and what mends it.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let Origin::Operator {
            snapshot: Some(wanted),
            ..
        } = &self.origin
        else {
            return Err("there is no Snapshot to run".to_owned());
        };
        let name = &wanted.ingress_point;
        let running = self.snapshots.iter().find(|s| s.ingress_point == *name);
        if running.is_none_or(|running| running.version != wanted.version) {
            return Err(self.told_of(
                |line| line.contains("what ran before goes on"),
                || format!("VPCIngressPoint {name}: the Snapshot is refused"),
            ));
        }
        if !self.vpcs.contains_key(name) {
            return Err(self.told_of(
                |line| line.starts_with("VPCIngressPoint"),
                || format!("VPCIngressPoint {name}: it has no TUN device"),
            ));
        }
        if let Some(problem) = self.trouble.of_kernel(name) {
            return Err(problem);
        }
        self.listeners(wanted)
    }

    fn listeners(&self, wanted: &Snapshot) -> Result<(), String> {
        for listener in &wanted.listeners {
            let (name, port) = (&listener.name, listener.port);
            if listener.protocol != ListenerProtocol::Http3 {
                return Err(format!(
                    "listener {name} speaks {:?}, and this gateway speaks HTTP/3 only",
                    listener.protocol
                ));
            }
            for certificate in &listener.certificates {
                let secret = ObjectName::new(&*wanted.ingress_point.namespace, certificate);
                if !self.certificates.contains_key(&secret) {
                    let of_it = |line: &str| line.contains(&format!("listener {name}: "));
                    return Err(self.told_of(of_it, || {
                        format!("listener {name}: the certificate {certificate} cannot be used")
                    }));
                }
            }
            if !self.ports.contains_key(&port) {
                return Err(self.told_of(
                    |line| line.contains(&format!("port {port}")),
                    || format!("listener {name}: UDP port {port} is not open"),
                ));
            }
        }
        Ok(())
    }

    /// The first of the problems that fits, or what is said without one.
    fn told_of(&self, fits: impl Fn(&str) -> bool, without: impl FnOnce() -> String) -> String {
        let told = self.told.iter().find(|line| fits(line));
        told.cloned().unwrap_or_else(without)
    }
}
