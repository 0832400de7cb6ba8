//! Every verb of the command, as a user runs it: the real binary on the real models.

#[path = "../common/mod.rs"]
mod common;

mod adapter;
mod bench;
mod chat;
mod delta;
mod errors;
#[cfg(feature = "gpu")]
mod gpu;
mod help;
mod machine;
mod merge;
mod params;
mod run;
mod scoring;
mod tokenize;
mod tune;
