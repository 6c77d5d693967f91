//! Appraisal of evidence against policy and reference values.
