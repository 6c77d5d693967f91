//! Sessions against honest peers, against peers that are written by hand and lie, and against
//! machines in the middle. Everything runs in memory on real rustls.

mod driver;
mod frames;
mod machine_in_the_middle;
mod parties;
mod raw;
mod sessions;
mod tls;
