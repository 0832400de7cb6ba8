//! Writes the Kotlin and the Swift of `timbre-bindings`, read from its built library.
//!
//! A crate of its own, so that the generator, which is larger than the bindings, is built only where code is generated.

use std::process::ExitCode;

use camino::Utf8PathBuf;
use uniffi_bindgen::bindings::{
    GenerateOptions, SwiftBindingsOptions, TargetLanguage, generate, generate_swift_bindings,
};

const USAGE: &str = "usage: timbre-bindgen kotlin|swift LIBRARY OUT

Writes the Kotlin sources, or the Swift source, header and module map, of the built LIBRARY (libtimbre_bindings.so, .dylib
or .a) into the folder OUT. bindings/uniffi.toml says how.";

/// Where the crates' uniffi.toml are, so that cargo need not be asked.
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bindgen.toml");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [language, library, out] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let (source, out_dir) = (Utf8PathBuf::from(library), Utf8PathBuf::from(out));
    let config = Some(Utf8PathBuf::from(CONFIG));
    let done = match language.as_str() {
        "kotlin" => generate(GenerateOptions {
            languages: vec![TargetLanguage::Kotlin],
            source,
            out_dir,
            config_override: config,
            ..GenerateOptions::default()
        }),
        "swift" => generate_swift_bindings(SwiftBindingsOptions {
            generate_swift_sources: true,
            generate_headers: true,
            generate_modulemap: true,
            source,
            out_dir,
            xcframework: false,
            module_name: None,
            modulemap_filename: None,
            metadata_no_deps: true,
            link_frameworks: Vec::new(),
            config,
        }),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
