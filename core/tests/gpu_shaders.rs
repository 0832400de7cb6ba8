//! Every shader file is valid WGSL, and says at its top what it computes and what it mirrors.

#![cfg(feature = "gpu")]

use std::path::PathBuf;

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
        // Files that are compiled behind another say so.
        let before = header.split("Compiled behind ").nth(1).map(|rest| {
            let name = rest.split(".wgsl").next().unwrap();
            std::fs::read_to_string(folder.join(format!("{name}.wgsl"))).unwrap()
        });
        let whole = format!("{}\n{text}", before.unwrap_or_default());
        let module = naga::front::wgsl::parse_str(&whole)
            .unwrap_or_else(|e| panic!("{}: {}", path.display(), e.emit_to_string(&whole)));
        let (flags, capabilities) = (naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
        if let Err(error) = naga::valid::Validator::new(flags, capabilities).validate(&module) {
            panic!("{}: {}", path.display(), error.emit_to_string(&whole));
        }
        found += 1;
    }
    assert!(found >= 6, "{found} shaders in {}", folder.display());
}
