//! Placeholder for the membership machine.
