//! Unified kernel images: building, owning, and predicting their measurements.
