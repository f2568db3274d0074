//! The filter by which the kernel picks a shard's socket.

use std::{io, net::UdpSocket, os::fd::AsRawFd};

use super::SocketError;

/// Instructions of the filter.
const LENGTH: usize = 7;

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// Shard = first byte of the destination connection id, modulo the shards. It stands behind
/// flags, version and length in a long header (RFC 8999 §5.1), behind the flags in a short one
/// (§5.2). A packet too short for it is nobody's, and goes to shard 0.
const fn program(shards: u8) -> [libc::sock_filter; LENGTH] {
    use libc::{
        BPF_ABS, BPF_ALU, BPF_B, BPF_JA, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD, BPF_RET,
    };
    const BPF_A: u32 = 0x10;
    [
        instruction(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        instruction(BPF_JMP | BPF_JSET | BPF_K, 0, 2, 0x80),
        instruction(BPF_LD | BPF_B | BPF_ABS, 0, 0, 6),
        instruction(BPF_JMP | BPF_JA, 0, 0, 1),
        instruction(BPF_LD | BPF_B | BPF_ABS, 0, 0, 1),
        instruction(BPF_ALU | BPF_MOD | BPF_K, 0, 0, shards as u32),
        instruction(BPF_RET | BPF_A, 0, 0, 0),
    ]
}

pub(super) fn attach(socket: &UdpSocket, shards: u8) -> Result<(), SocketError> {
    let mut program = program(shards.max(1));
    let filter = libc::sock_fprog {
        len: LENGTH as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the descriptor is open for the life of `socket`; `filter` points at `LENGTH`
    // instructions, and both outlive the call, which copies them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(SocketError::Option {
        option: "SO_ATTACH_REUSEPORT_CBPF",
        error,
    })
}
