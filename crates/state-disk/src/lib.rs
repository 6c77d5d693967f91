//! The sealed header of a state disk and the device-mapper tables it implies.
