//! Real Kubernetes on this machine.
