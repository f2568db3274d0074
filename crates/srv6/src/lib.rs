//! uSID layout, encapsulation and decapsulation, and the kernel state one VPC needs.
