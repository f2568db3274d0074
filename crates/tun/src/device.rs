//! Opening a TUN device with one descriptor per queue.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use libc::c_ulong;

use crate::{TunError, TunQueue, VNET_HDR_BYTES};

/// Most queues of one device (the kernel's `MAX_TAP_QUEUES`).
pub const QUEUES_MAX: usize = 256;

/// Longest interface name, without the final NUL (`IFNAMSIZ` - 1).
pub const NAME_BYTES_MAX: usize = libc::IFNAMSIZ - 1;

/// What a device shall be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunConfig {
    /// Name of the interface, 1 to 15 bytes; empty lets the kernel choose `tunN`.
    pub name: String,
    /// Number of queues, 1 to [`QUEUES_MAX`]. The kernel spreads flows over them.
    pub queues: usize,
    /// Ask for super-packets and unfinished checksums from the kernel. Without it every packet read
    /// fits the interface's MTU and is complete; super-packets may be written either way.
    pub offload: bool,
}

/// A TUN interface. It vanishes when its last queue is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunDevice {
    /// Name of the interface.
    pub name: String,
    /// Index of the interface in the network namespace that it was opened in.
    pub index: u32,
    /// What the kernel agreed to hand out.
    pub offloads: Offloads,
}

/// Work that the kernel leaves to the reader of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums may be unfinished.
    pub checksum: bool,
    /// TCP super-packets of both families (TSO).
    pub tcp: bool,
    /// UDP super-packets of both families (USO; Linux 6.2).
    pub udp: bool,
}

impl TunDevice {
    /// Makes the interface in the calling thread's network namespace and opens its queues, all
    /// non-blocking. It is down and has no address; a device of another owner is never joined.
    ///
    /// # Errors
    /// [`TunError::NoDevice`], [`TunError::DeviceDenied`], [`TunError::NotPermitted`],
    /// [`TunError::NameTaken`], [`TunError::BadName`], [`TunError::BadQueues`], or what the kernel
    /// said.
    pub fn open(config: &TunConfig) -> Result<(Self, Vec<TunQueue>), TunError> {
        if !config.name.is_empty() && !is_interface_name(&config.name) {
            return Err(TunError::BadName(config.name.clone()));
        }
        if config.queues == 0 || config.queues > QUEUES_MAX {
            return Err(TunError::BadQueues(config.queues));
        }
        let (first, name) = attach(&config.name, libc::IFF_TUN_EXCL)?;
        let mut queues = vec![first];
        for _ in 1..config.queues {
            queues.push(attach(&name, 0)?.0);
        }
        let offloads = if config.offload {
            Offload::negotiate(&queues[0])?
        } else {
            Offload::NONE
        };
        // The interface takes the features of the last call on any of its queues; repeating the
        // result on each would change nothing.
        let index = interface_index(&name)?;
        let device = Self {
            name,
            index,
            offloads: offloads.into(),
        };
        Ok((device, queues.into_iter().map(TunQueue::new).collect()))
    }
}

/// Opens one descriptor and makes it a queue of `name`. Returns the interface's real name.
fn attach(name: &str, extra_flags: libc::c_int) -> Result<(OwnedFd, String), TunError> {
    let fd = open_clone_device()?;
    // SAFETY: ifreq is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags =
        libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE | extra_flags;
    // The flags are a bit field of 16 bits; IFF_TUN_EXCL is its sign bit.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if done < 0 {
        return Err(attach_error(name, io::Error::last_os_error()));
    }
    let size: libc::c_int = VNET_HDR_BYTES as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives through the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const size) };
    if done < 0 {
        return Err(TunError::System {
            call: "TUNSETVNETHDRSZ",
            source: io::Error::last_os_error(),
        });
    }
    // SAFETY: the kernel keeps ifr_name NUL-terminated within its 16 bytes.
    let real = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
    Ok((fd, real.to_string_lossy().into_owned()))
}

fn open_clone_device() -> Result<OwnedFd, TunError> {
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: a NUL-terminated path; the descriptor is owned at once.
    let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) };
    if fd < 0 {
        return Err(open_error(io::Error::last_os_error()));
    }
    // SAFETY: just opened, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The node decides about opening; EPERM is what the device rules of a container say.
fn open_error(source: io::Error) -> TunError {
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDevice,
        Some(libc::EACCES | libc::EPERM) => TunError::DeviceDenied,
        _ => TunError::System {
            call: "open of /dev/net/tun",
            source,
        },
    }
}

fn attach_error(name: &str, source: io::Error) -> TunError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted,
        Some(libc::EBUSY | libc::EEXIST) => TunError::NameTaken(name.to_owned()),
        _ => TunError::System {
            call: "TUNSETIFF",
            source,
        },
    }
}

/// A set of `TUN_F_*` bits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Offload(u32);

impl Offload {
    const NONE: Self = Self(0);
    const CHECKSUM: Self = Self(libc::TUN_F_CSUM);
    const TCP: Self =
        Self(Self::CHECKSUM.0 | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN);
    const UDP: Self = Self(Self::TCP.0 | libc::TUN_F_USO4 | libc::TUN_F_USO6);

    /// Sets the most the kernel knows: it refuses a set with an unknown bit as a whole.
    fn negotiate(fd: &OwnedFd) -> Result<Self, TunError> {
        let mut last = None;
        for wanted in [Self::UDP, Self::TCP, Self::CHECKSUM, Self::NONE] {
            // SAFETY: TUNSETOFFLOAD takes its argument by value.
            let done = unsafe {
                libc::ioctl(
                    fd.as_raw_fd(),
                    libc::TUNSETOFFLOAD as _,
                    c_ulong::from(wanted.0),
                )
            };
            if done == 0 {
                return Ok(wanted);
            }
            last = Some(io::Error::last_os_error());
        }
        let source = last.unwrap_or_else(io::Error::last_os_error);
        Err(TunError::System {
            call: "TUNSETOFFLOAD",
            source,
        })
    }
}

impl From<Offload> for Offloads {
    fn from(Offload(bits): Offload) -> Self {
        let has = |mask| bits & mask == mask;
        Self {
            checksum: has(libc::TUN_F_CSUM),
            tcp: has(libc::TUN_F_TSO4 | libc::TUN_F_TSO6),
            udp: has(libc::TUN_F_USO4 | libc::TUN_F_USO6),
        }
    }
}

fn interface_index(name: &str) -> Result<u32, TunError> {
    let Ok(text) = CString::new(name) else {
        return Err(TunError::BadName(name.to_owned()));
    };
    // SAFETY: a NUL-terminated string.
    match unsafe { libc::if_nametoindex(text.as_ptr()) } {
        0 => Err(TunError::System {
            call: "if_nametoindex",
            source: io::Error::last_os_error(),
        }),
        index => Ok(index),
    }
}

/// The kernel's `dev_valid_name`, without `%`, which would ask it to number the interface.
fn is_interface_name(name: &str) -> bool {
    let bad = |b: u8| b == b'/' || b == b':' || b == b'%' || !b.is_ascii_graphic();
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.bytes().any(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_kernel() {
        for good in ["a", "tun0", "masque-10.0_1", "exactly15bytes!"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:1",
            "tun%d",
            "sixteen-bytes-16",
            "t\u{e9}",
        ] {
            assert!(!is_interface_name(bad), "{bad}");
        }
    }

    #[test]
    fn node_rights_and_capability_are_told_apart() {
        let os = io::Error::from_raw_os_error;
        let words = [
            (open_error(os(libc::ENOENT)), "modprobe tun"),
            (open_error(os(libc::EACCES)), "chmod 0666 /dev/net/tun"),
            (open_error(os(libc::EPERM)), "--device /dev/net/tun"),
            (
                attach_error("t", os(libc::EPERM)),
                "setcap cap_net_admin+ep",
            ),
            (attach_error("t", os(libc::EBUSY)), "choose another name"),
        ];
        for (error, mends) in words {
            assert!(error.to_string().contains(mends), "{mends}: {error}");
        }
        let denied = open_error(os(libc::EACCES)).to_string();
        assert!(!denied.contains("CAP_NET_ADMIN"), "{denied}");
        assert!(matches!(
            open_error(os(libc::EMFILE)),
            TunError::System { .. }
        ));
    }

    #[test]
    fn refuses_before_it_touches_the_kernel() {
        let config = TunConfig {
            name: "way-too-long-a-name".into(),
            queues: 1,
            offload: true,
        };
        assert!(matches!(
            TunDevice::open(&config),
            Err(TunError::BadName(_))
        ));
        for queues in [0, QUEUES_MAX + 1] {
            let config = TunConfig {
                name: "mqt".into(),
                queues,
                offload: true,
            };
            assert!(matches!(TunDevice::open(&config), Err(TunError::BadQueues(n)) if n == queues));
        }
    }
}
