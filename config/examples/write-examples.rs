//! Writes the two example files anew from the tables of keys: `cargo run -p isochrone-config --example write-examples`.

use std::path::Path;

use isochrone_config::{CLUSTER, NODE};

fn main() -> std::io::Result<()> {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::write(room.join("isochrone.example.toml"), NODE.example())?;
    std::fs::write(room.join("cluster.example.toml"), CLUSTER.example())
}
