//! The key service: releases data keys to authenticated callers.
fn main() {}
