//! The sealed header: what opens, what is refused, the vectors and the independent reader.

#[cfg(test)]
mod refusals;

#[cfg(test)]
mod sample;

#[cfg(test)]
mod slots;

#[cfg(test)]
mod tables;

#[cfg(test)]
mod vectors;
