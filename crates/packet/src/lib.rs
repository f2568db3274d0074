//! IPv4, IPv6, ICMP, TCP and UDP views and edits: checksums, extension headers, MSS clamp, segmentation and merging.
