//! tokenward

