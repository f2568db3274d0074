//! Validates resources and compiles them into Snapshots; the operator and the standalone gateway share it.
