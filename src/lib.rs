//! tokenward

pub mod config;
