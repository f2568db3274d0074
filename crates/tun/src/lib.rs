//! TUN queues with virtio-net offloads: super-packets in, super-packets out.
