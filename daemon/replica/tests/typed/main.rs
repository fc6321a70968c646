//! Typed states over random histories, against a plain model (E1, E2, E3, E8, E12).

mod bounds;
mod claims;
mod costs;
mod hazards;
mod histories;
mod hostile;
mod lives;
mod model;
mod scene;
mod world;
