//! The graph of stream tables.
