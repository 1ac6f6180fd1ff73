//! Rel -> Rel.
