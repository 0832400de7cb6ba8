//! Timbre: on-device inference for personal models.
//!
//! One quantised base model is memory-mapped, read-only and shared; each user's personality is a FourierFT adapter of a
//! few hundred kilobytes, applied in the spectral domain and swapped at run time.
//!
//! The rooms, each importing only from those below it:
//!
//! | room | what it is for |
//! |---|---|
//! | [`session`] | prompt → tokens → text: KV cache, sampling, templates, streaming, statistics |
//! | [`tune`] | fine-tuning an adapter on the device: data, optimiser, checkpoints, the loop |
//! | [`model`] | one file per architecture over shared blocks, and the forward pass |
//! | [`merge`] | ΔW added to the weights, into a file of its own |
//! | [`adapter`] | adapters as values: files, registry, mixing, what a delta does |
//! | [`spectral`] | which positions, the transforms, dense reconstruction |
//! | [`tokenizer`] | text ↔ tokens from the mapped vocabulary |
//! | [`quantize`] | rounding f32 rows to a storage type |
//! | [`kernels`] | quantised products on mapped blocks, attention, elementwise, threads |
//! | `gpu` | (feature `gpu`) a wgpu device, its memory, WGSL kernels, self-tests |
//! | [`gguf`] | map a file, validate it, hand out typed views, write derived files |
//!
//! Beside them: [`memory`] (what the process holds, anonymous and file-backed), [`durable`] (files that appear whole or
//! not at all) and [`params`] (how many parameters an adapter takes).

// Where it is needed, a room or a block says so.
#![deny(unsafe_code)]

pub mod adapter;
pub mod durable;
#[allow(unsafe_code)]
pub mod gguf;
#[cfg(feature = "gpu")]
pub mod gpu;
#[allow(unsafe_code)]
pub mod kernels;
pub mod memory;
pub mod merge;
pub mod model;
pub mod params;
pub mod quantize;
pub mod session;
pub mod spectral;
pub mod tokenizer;
pub mod tune;

/// Compiles the code of the README with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
