//! The surface that Kotlin and Swift are written against, as the built library describes it, is the one in `surface.txt`.
//!
//! A change of it breaks applications, or code that is generated elsewhere: it has to be seen and meant. To accept one, run
//! `TIMBRE_ACCEPT_SURFACE=1 cargo test --release -p timbre-bindings --test surface` and commit the file.

use std::path::{Path, PathBuf};

use camino::Utf8PathBuf;
use uniffi_bindgen::macro_metadata::extract_from_library;
use uniffi_meta::{EnumShape, FieldMetadata, FnParamMetadata, Metadata, Type};

/// The library that was built with this test, beside it.
fn library() -> Utf8PathBuf {
    let test = std::env::current_exe().unwrap();
    let name = format!("{}timbre_bindings{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    Utf8PathBuf::from_path_buf(test.parent().unwrap().join(name)).unwrap()
}

fn snapshot() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/surface.txt")
}

fn ty(ty: &Type) -> String {
    match ty {
        Type::UInt8 => "u8".into(),
        Type::UInt32 => "u32".into(),
        Type::UInt64 => "u64".into(),
        Type::Float32 => "f32".into(),
        Type::Float64 => "f64".into(),
        Type::Boolean => "bool".into(),
        Type::String => "string".into(),
        Type::Bytes => "bytes".into(),
        Type::Object { name, .. } | Type::Record { name, .. } | Type::Enum { name, .. } => name.clone(),
        Type::Optional { inner_type } => format!("{}?", self::ty(inner_type)),
        Type::Sequence { inner_type } => format!("[{}]", self::ty(inner_type)),
        other => format!("{other:?}"),
    }
}

fn inputs(inputs: &[FnParamMetadata]) -> String {
    inputs.iter().map(|input| format!("{}: {}", input.name, ty(&input.ty))).collect::<Vec<_>>().join(", ")
}

fn outcome(returns: Option<&Type>, throws: Option<&Type>) -> String {
    let returns = returns.map(|returns| format!(" -> {}", ty(returns))).unwrap_or_default();
    let throws = throws.map(|throws| format!(" throws {}", ty(throws))).unwrap_or_default();
    returns + &throws
}

fn field(field: &FieldMetadata) -> String {
    let default = if field.default.is_some() { " = default" } else { "" };
    format!("{}: {}{default}", field.name, ty(&field.ty))
}

/// A line for everything; the order of fields, variants and a trait's methods is part of the surface.
fn line(item: &Metadata) -> Option<String> {
    Some(match item {
        Metadata::Func(f) => {
            format!("function {}({}){}", f.name, inputs(&f.inputs), outcome(f.return_type.as_ref(), f.throws.as_ref()))
        }
        Metadata::Object(o) => format!("object {}", o.name),
        Metadata::Constructor(c) => format!(
            "object {} constructor {}({}){}",
            c.self_name,
            c.name,
            inputs(&c.inputs),
            outcome(None, c.throws.as_ref())
        ),
        Metadata::Method(m) => format!(
            "object {} method {}({}){}",
            m.self_name,
            m.name,
            inputs(&m.inputs),
            outcome(m.return_type.as_ref(), m.throws.as_ref())
        ),
        Metadata::TraitMethod(m) => format!(
            "trait {} {}: {}({}){}",
            m.trait_name,
            m.index,
            m.name,
            inputs(&m.inputs),
            outcome(m.return_type.as_ref(), m.throws.as_ref())
        ),
        Metadata::Record(r) => {
            format!("record {} {{ {} }}", r.name, r.fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        Metadata::Enum(e) => {
            let kind = if e.shape == EnumShape::Enum { "enum" } else { "error" };
            let variant = |v: &uniffi_meta::VariantMetadata| match v.fields.is_empty() {
                true => v.name.clone(),
                false => format!("{}({})", v.name, v.fields.iter().map(field).collect::<Vec<_>>().join(", ")),
            };
            format!("{kind} {} {{ {} }}", e.name, e.variants.iter().map(variant).collect::<Vec<_>>().join(" | "))
        }
        Metadata::Namespace(n) => format!("namespace {}", n.name),
        Metadata::UdlFile(_) => return None,
        other => format!("{other:?}"),
    })
}

#[test]
fn the_surface_is_the_accepted_one() {
    let mut lines: Vec<String> = extract_from_library(&library()).unwrap().iter().filter_map(line).collect();
    lines.sort();
    lines.dedup();
    let found = lines.join("\n") + "\n";
    assert!(lines.len() > 60, "the library describes its surface: {found}");
    if std::env::var_os("TIMBRE_ACCEPT_SURFACE").is_some() {
        std::fs::write(snapshot(), &found).unwrap();
    }
    let expected = std::fs::read_to_string(snapshot()).unwrap().replace("\r\n", "\n");
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let gone: Vec<_> = old.iter().filter(|line| !new.contains(line)).collect();
    let added: Vec<_> = new.iter().filter(|line| !old.contains(line)).collect();
    assert!(gone.is_empty() && added.is_empty(), "the surface has changed\ngone: {gone:#?}\nnew: {added:#?}");
}

#[test]
fn every_call_that_can_fail_fails_in_one_way() {
    for item in extract_from_library(&library()).unwrap() {
        let throws = match &item {
            Metadata::Func(f) => &f.throws,
            Metadata::Constructor(c) => &c.throws,
            Metadata::Method(m) => &m.throws,
            Metadata::TraitMethod(m) => &m.throws,
            _ => continue,
        };
        if let Some(throws) = throws {
            assert_eq!(ty(throws), "TimbreError", "{item:?}");
        }
        let documented = match &item {
            Metadata::Func(f) => &f.docstring,
            Metadata::Constructor(c) => &c.docstring,
            Metadata::Method(m) => &m.docstring,
            Metadata::TraitMethod(m) => &m.docstring,
            _ => continue,
        };
        assert!(documented.as_ref().is_some_and(|text| text.len() > 10), "{item:?} has no documentation");
    }
}
