//! Isochrone.
