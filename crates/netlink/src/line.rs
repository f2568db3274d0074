//! Where packets wait that leave by a TUN device.
//!
//! They wait in the device's own line (`txqueuelen`, one for each queue), and what finds it full is
//! lost. A queueing discipline in front of it never holds anything, but Linux makes one for each of the
//! 256 queues that such a device may have: 2.5 to 3 MB of kernel memory with `pfifo_fast`, and more with
//! a longer line. So a device is given `noqueue` before it is set up. Neither setting is needed to carry
//! packets: a kernel that refuses is told in the log and no more.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    tc::{TcAttribute, TcHandle, TcMessage},
};

use crate::{
    Kernel, NetlinkError,
    socket::{CREATE, REPLACE},
};

/// Packets and super-packets that each queue of a gateway's TUN device holds. Linux makes a device with
/// 500, and one packet thread delivers a thousand packets between two reads, which a workload may answer
/// one by one. Twice as many lose next to nothing, but 2,048 super-packets are 128 MiB that a VPC may
/// have the kernel hold for each packet thread; these are 64.
pub(crate) const GATEWAY_LINE_PACKETS: u32 = 1024;

const NEEDS: &str = "a Linux kernel with CONFIG_NET_SCHED";

impl Kernel {
    /// Takes the queueing discipline from a TUN device that is not up yet, so that packets wait in the
    /// device alone. What the kernel refuses is logged.
    pub fn without_discipline(&self, name: &str) {
        if let Err(error) = self.set_noqueue(name) {
            tracing::info!(link = name, %error, "the TUN device keeps its queueing discipline");
        }
    }

    /// Has each queue of a TUN device hold so many packets. What the kernel refuses is logged.
    pub(crate) fn with_line(&self, name: &str, line_packets: u32) {
        if let Err(error) = self.set_line(name, line_packets) {
            tracing::info!(link = name, %error, "the TUN device keeps the length of its line");
        }
    }

    fn set_noqueue(&self, name: &str) -> Result<(), NetlinkError> {
        let mut discipline = TcMessage::default();
        discipline.header.index = i32::try_from(self.require_link(name)?).unwrap_or(i32::MAX);
        discipline.header.parent = TcHandle::ROOT;
        discipline
            .attributes
            .push(TcAttribute::Kind("noqueue".into()));
        let message = RouteNetlinkMessage::NewQueueDiscipline(discipline);
        self.send(&message, CREATE | REPLACE, NEEDS, || {
            format!("giving {name} the queueing discipline noqueue")
        })
    }

    fn set_line(&self, name: &str, line_packets: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = self.require_link(name)?;
        link.attributes
            .push(LinkAttribute::TxQueueLen(line_packets));
        self.send(&RouteNetlinkMessage::SetLink(link), 0, NEEDS, || {
            format!("giving {name} a line of {line_packets} packets")
        })
    }
}
