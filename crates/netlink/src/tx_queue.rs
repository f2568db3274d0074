//! Where packets wait that leave by a TUN device.
//!
//! They wait in the device's own line (`txqueuelen`, one for each queue), and what finds it full is
//! lost. A queueing discipline in front of it never holds anything, but Linux makes one for each of the
//! 256 queues that such a device may have: some 3 MB of kernel memory with `pfifo_fast`, and more with a
//! longer line. So a device is given `noqueue` before it is set up for the first time. Who gives it
//! another discipline, before or later, is obeyed. Neither setting is needed to carry packets: a kernel that refuses is told in the log and no
//! more.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    tc::{TcAttribute, TcHandle, TcMessage},
};

use crate::{
    Kernel, NetlinkError,
    observe::LINK_HEADER_BYTES,
    socket::{CREATE, attribute, text_of},
};

/// Packets and super-packets that each queue of a gateway's TUN device holds. Linux makes a device with
/// 500, and one packet thread delivers a thousand packets between two reads, which a workload may answer
/// one by one. Twice as many lose next to nothing, but 2,048 super-packets are 128 MiB that a VPC may
/// have the kernel hold for each packet thread; these are 64.
pub(crate) const GATEWAY_TX_QUEUE_PACKETS: u32 = 1024;

/// `IFLA_QDISC`.
const LINK_DISCIPLINE: u16 = 6;
const NEEDS: &str = "a Linux kernel with CONFIG_NET_SCHED";

impl Kernel {
    /// Has a TUN device that was never up do without a queueing discipline, so that packets wait in the
    /// device alone. What the kernel refuses is logged.
    pub fn set_noqueue(&self, name: &str) {
        if let Err(error) = self.add_noqueue(name) {
            tracing::info!(link = name, %error, "the TUN device has a queueing discipline");
        }
    }

    /// Has each queue of a TUN device hold so many packets. What the kernel refuses is logged.
    pub(crate) fn set_tx_queue(&self, name: &str, packets: u32) {
        if let Err(error) = self.change_tx_queue(name, packets) {
            tracing::info!(link = name, %error, "the TUN device keeps the length of its line");
        }
    }

    fn add_noqueue(&self, name: &str) -> Result<(), NetlinkError> {
        if !self.is_without_discipline(name)? {
            return Ok(());
        }
        let mut discipline = TcMessage::default();
        discipline.header.index = i32::try_from(self.require_link(name)?).unwrap_or(i32::MAX);
        discipline.header.parent = TcHandle::ROOT;
        discipline
            .attributes
            .push(TcAttribute::Kind("noqueue".into()));
        let message = RouteNetlinkMessage::NewQueueDiscipline(discipline);
        self.send(&message, CREATE, NEEDS, || {
            format!("giving {name} the queueing discipline noqueue")
        })
    }

    /// Whether an interface has no discipline yet: Linux gives it one when it is set up first, unless
    /// somebody did.
    fn is_without_discipline(&self, name: &str) -> Result<bool, NetlinkError> {
        let body = self.link_body(name)?;
        let body = body.ok_or_else(|| NetlinkError::NoInterface(name.to_owned()))?;
        let attributes = body.get(LINK_HEADER_BYTES..).unwrap_or_default();
        Ok(attribute(attributes, LINK_DISCIPLINE).is_some_and(|kind| text_of(kind) == "noop"))
    }

    fn change_tx_queue(&self, name: &str, packets: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = self.require_link(name)?;
        link.attributes.push(LinkAttribute::TxQueueLen(packets));
        self.send(&RouteNetlinkMessage::SetLink(link), 0, NEEDS, || {
            format!("giving {name} a line of {packets} packets")
        })
    }
}
