//! Every shader file is valid WGSL, and says at its top what it computes and what it mirrors.

#![cfg(feature = "gpu")]

use std::path::{Path, PathBuf};

#[test]
fn every_shader_is_valid_and_says_what_it_is() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/gpu/shaders");
    let mut found = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(path.extension().unwrap(), "wgsl", "{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        let header: String = text.lines().take_while(|line| line.starts_with("//")).collect();
        for said in ["binding", "irrors"] {
            assert!(header.contains(said), "{}: the header says nothing of {said:?}", path.display());
        }
        for whole in texts(&folder, &text) {
            let module = naga::front::wgsl::parse_str(&whole)
                .unwrap_or_else(|e| panic!("{}: {}", path.display(), e.emit_to_string(&whole)));
            let (flags, capabilities) = (naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
            if let Err(error) = naga::valid::Validator::new(flags, capabilities).validate(&module) {
                panic!("{}: {}", path.display(), error.emit_to_string(&whole));
            }
        }
        found += 1;
    }
    assert!(found >= 6, "{found} shaders in {}", folder.display());
}

/// The texts that a file is part of: behind the files that its header names, or one of two.
fn texts(folder: &Path, text: &str) -> Vec<String> {
    let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//")).map(str::trim).collect();
    let header = header.join(" ");
    // What others are compiled behind is nothing by itself: it leaves names to them.
    if header.contains("Compiled before ") {
        return Vec::new();
    }
    let Some((_, names)) = header.split_once("Compiled behind ") else { return vec![text.to_owned()] };
    let names = names.split(". ").next().unwrap();
    let mut all = vec![text.to_owned()];
    for either in names.split(" and behind ") {
        let befores: Vec<String> =
            either.split(" or ").map(|name| std::fs::read_to_string(folder.join(name)).unwrap()).collect();
        all = all.iter().flat_map(|text| befores.iter().map(move |before| format!("{before}\n{text}"))).collect();
    }
    all
}
