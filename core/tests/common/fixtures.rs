//! Where fixtures are: reference outputs beside the tests, real adapters with what the command bundles.

use std::path::PathBuf;

/// The path of a fixture, `smollm2.json` or `adapters/devil`.
pub fn fixture_path(name: &str) -> PathBuf {
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name);
    if own.exists() { own } else { PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets")).join(name) }
}
