//! Protobuf messages between nodes, services and operators.
