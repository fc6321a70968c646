//! The edge against a model of the daemon behind it: the contract's words, and what clients do to a socket.
#![allow(clippy::unwrap_used)]

mod admin;
mod batch;
mod counted;
mod keys;
mod listener;
mod model;
mod rights;
mod sessions;
mod strong;
mod typed;
mod types;
