//! The join service: appraises nodes and issues join and rejoin tickets.
