//! Whole-system tests: QEMU, swtpm, OVMF and the real programs.
