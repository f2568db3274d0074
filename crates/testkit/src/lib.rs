//! For tests only: network namespaces, certificates, virtual networks.
