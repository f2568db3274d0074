//! TUN devices: one for each ingress point, with a queue for every packet thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
};

use masque_controller::Snapshot;
use masque_gateway_core::{Tables, VpcIndex};
use masque_model::ObjectName;
use masque_netlink::LinkState;
use masque_srv6::Slot;
use masque_tun::{TunConfig, TunDevice, TunError};

use super::Supervisor;
use crate::{command::Command, exit::Fatal};

/// Every TUN device's name begins so.
const TUN_PREFIX: &str = "mq";

/// A VPC's device.
#[derive(Debug)]
pub(super) struct VpcDevice {
    pub(super) index: VpcIndex,
    pub(super) slot: Slot,
    pub(super) name: String,
    /// The interface's index: another one of the same name has another.
    interface: u32,
}

impl VpcDevice {
    fn is_there(&self) -> bool {
        LinkState::of(&self.name).is_ok_and(|link| link.index == self.interface)
    }
}

/// A device that is on its way out. Its name and its kernel tables are free once every packet thread
/// has closed its queue.
#[derive(Debug)]
pub(super) struct Closing {
    slot: Slot,
    /// Held by the commands that the threads have yet to obey, and by the queues that this thread
    /// has yet to close.
    threads: Weak<()>,
}

impl Closing {
    fn goes_on(&self) -> bool {
        self.threads.strong_count() > 0
    }
}

impl Supervisor {
    /// A TUN device for every VPC that has none, a queue for every shard. Which cannot be opened is
    /// said in the trouble.
    ///
    /// # Errors
    /// [`Fatal`] only the first time, when there is no device at all.
    pub(super) fn open_devices(&mut self, tables: &Tables, first: bool) -> Result<(), Fatal> {
        self.trouble
            .devices
            .retain(|name, _| self.vpcs.contains_key(name));
        let mut refused = None;
        for table in tables.vpcs() {
            let name = table.ingress_point();
            if self
                .vpcs
                .get(name)
                .is_some_and(|vpc| vpc.index == table.index())
            {
                continue;
            }
            let opened = self.open_device(table.index());
            // An ingress point that leads to another VPC now gets another device. The former one
            // kept its name until here, so that the new one cannot have it.
            self.close_device(name);
            match opened {
                Ok(device) => {
                    tracing::info!(ingress_point = %name, device = device.name, "TUN device");
                    self.vpcs.insert(name.clone(), device);
                }
                Err(error) => {
                    let sentence = format!("it has no TUN device: {error}");
                    self.trouble.devices.insert(name.clone(), sentence);
                    refused.get_or_insert(error);
                }
            }
        }
        match refused {
            Some(error) if first && self.vpcs.is_empty() => Err(Fatal::device(&error)),
            _ => Ok(()),
        }
    }

    fn open_device(&mut self, vpc: VpcIndex) -> Result<VpcDevice, TunError> {
        self.close_queues();
        let taken = self.vpcs.values().map(|vpc| vpc.slot);
        let slot = free_slot(taken.chain(self.closing.iter().map(|closing| closing.slot)));
        self.open_in_slot(vpc, slot)
    }

    fn open_in_slot(&self, vpc: VpcIndex, slot: Slot) -> Result<VpcDevice, TunError> {
        let config = TunConfig {
            name: format!("{TUN_PREFIX}{}", slot.0),
            queues: self.control.shards(),
            offload: true,
        };
        let (device, queues) = TunDevice::open(&config)?;
        let merge_udp = device.offloads.udp;
        for (shard, queue) in queues.into_iter().enumerate() {
            let shard = u16::try_from(shard).unwrap_or(u16::MAX);
            self.control.send(
                shard,
                Command::OpenVpc {
                    vpc,
                    queue,
                    merge_udp,
                },
            );
        }
        Ok(VpcDevice {
            index: vpc,
            slot,
            name: device.name,
            interface: device.index,
        })
    }

    /// Closes the queues that packet threads have given back: the last one takes its device with it,
    /// and the kernel may take milliseconds over that, which no packet is to wait for.
    pub(crate) fn close_queues(&mut self) {
        self.control.drop_closed();
        self.closing.retain(Closing::goes_on);
    }

    /// Opens the devices again that somebody has deleted (or renamed, or moved away). Their routes are
    /// gone with them: settle the kernel's state next.
    pub(super) fn reopen_devices(&mut self) {
        self.trouble.devices.clear();
        let lost: Vec<ObjectName> = self
            .vpcs
            .iter()
            .filter(|(_, device)| !device.is_there())
            .map(|(name, _)| name.clone())
            .collect();
        for name in lost {
            let Some(device) = self.vpcs.get(&name) else {
                continue;
            };
            match self.open_in_slot(device.index, device.slot) {
                Ok(opened) => {
                    tracing::warn!(
                        ingress_point = %name, device = opened.name,
                        "the TUN device was gone and is open again; who deletes it?"
                    );
                    self.control.device_reopened();
                    self.trouble.devices.remove(&name);
                    self.vpcs.insert(name, opened);
                }
                Err(error) => {
                    let sentence = format!("its TUN device {} is gone: {error}", device.name);
                    self.trouble.devices.insert(name, sentence);
                }
            }
        }
    }

    /// Looks at the devices after some device of the namespace has changed, and repairs what is wrong
    /// with them: a TUN device that was deleted or set down, another MTU of the underlay.
    pub(crate) fn links_changed(&mut self) {
        if self.links_now() != self.links {
            self.repair();
        }
    }

    /// Remembers how the devices are, so that only a change is looked into.
    pub(super) fn note_links(&mut self) {
        self.links = self.links_now();
    }

    fn links_now(&self) -> BTreeMap<String, Option<LinkState>> {
        let tuns = self.vpcs.values().map(|device| device.name.as_str());
        tuns.chain((!self.underlay.is_empty()).then_some(self.underlay.as_str()))
            .map(|name| (name.to_owned(), LinkState::of(name).ok()))
            .collect()
    }

    /// VPCs that no manifest names any more: their queues close, and the device vanishes.
    pub(super) fn close_devices(&mut self, snapshots: &[Snapshot]) {
        let wanted: BTreeSet<_> = snapshots.iter().map(|s| &s.ingress_point).collect();
        let gone: Vec<ObjectName> = self
            .vpcs
            .keys()
            .filter(|name| !wanted.contains(name))
            .cloned()
            .collect();
        for name in gone {
            self.close_device(&name);
        }
    }

    /// Closes the queues of an ingress point's device, if it has one; the device vanishes with them.
    fn close_device(&mut self, name: &ObjectName) {
        if let Some(device) = self.vpcs.remove(name) {
            self.trouble.devices.remove(name);
            tracing::info!(ingress_point = %name, device = device.name, "TUN device closed");
            let closing = Arc::new(());
            self.closing.push(Closing {
                slot: device.slot,
                threads: Arc::downgrade(&closing),
            });
            self.control.broadcast(|| Command::CloseVpc {
                vpc: device.index,
                closing: Arc::clone(&closing),
            });
        }
    }
}

/// The first slot that nobody has.
fn free_slot(taken: impl Iterator<Item = Slot>) -> Slot {
    let taken: BTreeSet<u16> = taken.map(|slot| slot.0).collect();
    Slot(
        (0..u16::MAX)
            .find(|slot| !taken.contains(slot))
            .unwrap_or(u16::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_taken_until_the_last_thread_has_closed_its_queue() {
        let command = Arc::new(());
        let another = Arc::clone(&command);
        let mut closing = vec![Closing {
            slot: Slot(0),
            threads: Arc::downgrade(&command),
        }];
        let mut free = || {
            closing.retain(Closing::goes_on);
            free_slot([Slot(1)].into_iter().chain(closing.iter().map(|c| c.slot)))
        };
        assert_eq!(free(), Slot(2));
        drop(command);
        assert_eq!(free(), Slot(2), "one thread is late");
        drop(another);
        assert_eq!(free(), Slot(0));
    }
}
