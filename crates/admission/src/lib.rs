//! The admission state machine: node records, claims, generations, tickets.
