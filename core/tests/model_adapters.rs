//! Adapters that do not fit their model: each is refused whole, with the error that names what does not fit.

#[path = "adapter_support/mod.rs"]
mod adapter_support;
mod model_support;

use std::sync::Arc;

use adapter_support::{config, planned, shape, weights};
use model_support::{HIDDEN, INNER, LAYERS, Tiny, noise};
use serde_json::json;
use timbre::adapter::{Adapter, AdapterError, AdapterFile, Delta, LoraDelta, LoraScale, Module};
use timbre::model::{ActiveAdapters, BoundAdapter, Model, ModelError, ModelOptions};
use timbre::session::{CancelHandle, Session, SessionError, SessionOptions, SwapPolicy};
use timbre::spectral::PlanCache;

const N: usize = 4;
const ALPHA: f64 = 300.0;
const Q: (usize, usize) = (64, HIDDEN);
const V: (usize, usize) = (32, HIDDEN);

/// Of a shape alone, whose entries no other module shares.
fn module(name: &str, of: (usize, usize)) -> Module {
    module_from(&PlanCache::new(), name, of)
}

fn module_from(plans: &PlanCache, name: &str, (rows, cols): (usize, usize)) -> Module {
    let plan = plans.seeded(shape(rows, cols), N, 2024).unwrap();
    planned(name, plan, &noise(name, N, 0.5), ALPHA)
}

fn q(layer: usize) -> String {
    format!("model.layers.{layer}.self_attn.q_proj")
}

fn v(layer: usize) -> String {
    format!("model.layers.{layer}.self_attn.v_proj")
}

fn bind(model: &Model, modules: Vec<Module>) -> Result<Arc<BoundAdapter>, ModelError> {
    model.bind(Arc::new(Adapter::new(modules).unwrap()), "a")
}

/// A PEFT adapter with spectra for `names`, resolved against the model and bound.
fn bind_peft(model: &Model, changes: serde_json::Value, names: &[&str]) -> Result<Arc<BoundAdapter>, ModelError> {
    let c = noise("spectrum", N, 0.5);
    let spectra: Vec<(&str, &[f32])> = names.iter().map(|&name| (name, &c[..])).collect();
    let file = AdapterFile::from_peft_bytes(&config(changes), &weights(&spectra))?;
    let adapter = file.resolve(model.plans(), |module| model.module_shape(module))?;
    model.bind(Arc::new(adapter), "a")
}

#[test]
fn one_that_fits_changes_every_logit() {
    for tiny in Tiny::both() {
        let model = tiny.open().unwrap();
        let mut session = Session::new(model.clone(), &SessionOptions::default()).unwrap();
        session.set_tokens(&[1, 4, 5]);
        let base = session.logits(&CancelHandle::default()).unwrap().to_vec();
        let bound = bind(&model, (0..LAYERS).flat_map(|i| [module(&q(i), Q), module(&v(i), V)]).collect()).unwrap();
        assert_eq!((bound.modules(), bound.name(), bound.is_for(model.gguf())), (4, "a", true));
        session.set_adapters(ActiveAdapters::new(vec![(bound, 1.0)]).unwrap(), SwapPolicy::Recompute).unwrap();
        let adapted = session.logits(&CancelHandle::default()).unwrap();
        assert!(adapted.iter().zip(&base).all(|(a, b)| a.is_finite() && a != b));
    }
}

const LINEARS: [(&str, (usize, usize)); 7] = [
    ("self_attn.q_proj", Q),
    ("self_attn.k_proj", V),
    ("self_attn.v_proj", V),
    ("self_attn.o_proj", (HIDDEN, 64)),
    ("mlp.gate_proj", (INNER, HIDDEN)),
    ("mlp.up_proj", (INNER, HIDDEN)),
    ("mlp.down_proj", (HIDDEN, INNER)),
];

#[test]
fn few_rows_do_not_depend_on_who_computes_their_changes() {
    for tiny in Tiny::both() {
        // One thread does all, two share products and changes, with more each linear's change is a task of its own.
        let logits = [1, 2, 3, 5].map(|threads| {
            let model = tiny.open_with(&ModelOptions { threads: Some(threads), ..ModelOptions::default() }).unwrap();
            let mut session = Session::new(model.clone(), &SessionOptions::default()).unwrap();
            let name = |i: usize, linear: &str| format!("model.layers.{i}.{linear}");
            let plans = PlanCache::new();
            let every =
                (0..LAYERS).flat_map(|i| LINEARS.map(|(linear, shape)| module_from(&plans, &name(i, linear), shape)));
            let list = vec![(bind(&model, every.collect()).unwrap(), 0.5)];
            session.set_adapters(ActiveAdapters::new(list).unwrap(), SwapPolicy::Recompute).unwrap();
            let mut all = Vec::new();
            for tokens in
                [&[1][..], &[4], &[5], &[2, 6, 3, 1, 1], &[1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 7, 1, 2], &[3, 7]]
            {
                session.push(tokens);
                all.extend_from_slice(session.logits(&CancelHandle::default()).unwrap());
            }
            all
        });
        assert!(logits.iter().all(|other| *other == logits[0]));
    }
}

#[test]
fn a_prompts_last_row_does_not_depend_on_whether_the_others_are_read() {
    let tokens: Vec<u32> = (1..40).map(|i| i % 7 + 1).collect();
    for tiny in Tiny::both() {
        let model = tiny.open().unwrap();
        let name = |i: usize, linear: &str| format!("model.layers.{i}.{linear}");
        let every = (0..LAYERS).flat_map(|i| LINEARS.map(|(linear, shape)| module(&name(i, linear), shape)));
        let bound = bind(&model, every.collect()).unwrap();
        for batch in [3, 16, 64] {
            let options = SessionOptions { batch: Some(batch), ..SessionOptions::default() };
            let mut session = Session::new(model.clone(), &options).unwrap();
            let list = vec![(bound.clone(), 1.0)];
            session.set_adapters(ActiveAdapters::new(list).unwrap(), SwapPolicy::Recompute).unwrap();
            session.set_tokens(&tokens);
            let alone = session.logits(&CancelHandle::default()).unwrap().to_vec();
            let mut last = Vec::new();
            session.logits_all(&mut |_, logits| last = logits.to_vec()).unwrap();
            // One row's transforms and blocks of rows' round differently.
            let close = alone.iter().zip(&last).all(|(a, b)| (a - b).abs() < 1e-3 * (1.0 + b.abs()));
            assert!(close, "batches of {batch}: {alone:?} for {last:?}");
        }
    }
}

#[test]
fn linears_whose_changes_have_the_same_entries_get_what_each_gets_alone() {
    for tiny in Tiny::both() {
        let model = tiny.open_with(&ModelOptions { threads: Some(2), ..ModelOptions::default() }).unwrap();
        let mut session = Session::new(model.clone(), &SessionOptions::default()).unwrap();
        let mut logits = |adapters: Vec<Vec<Module>>| {
            let list = adapters.into_iter().map(|modules| (bind(&model, modules).unwrap(), 0.5)).collect();
            session.set_adapters(ActiveAdapters::new(list).unwrap(), SwapPolicy::Recompute).unwrap();
            session.set_tokens(&[1]);
            session.logits(&CancelHandle::default()).unwrap().to_vec()
        };
        let every = |plans: Option<&PlanCache>, linears: &[usize]| -> Vec<Module> {
            let module = |(i, linear): (usize, usize)| {
                let (linear, shape) = LINEARS[linear];
                let name = format!("model.layers.{i}.{linear}");
                plans.map_or_else(|| module(&name, shape), |plans| module_from(plans, &name, shape))
            };
            (0..LAYERS).flat_map(|i| linears.iter().map(move |linear| (i, *linear))).map(module).collect()
        };
        let plans = PlanCache::new();
        let low = || vec![low_rank("model.layers.1.mlp.up_proj", (INNER, HIDDEN))];
        // All linears; both of a pair in two adapters; one of a pair in another adapter; a change of another kind.
        for (first, second) in
            [(&[0, 1, 2, 3, 4, 5, 6][..], &[][..]), (&[1, 2, 4], &[0, 1, 2]), (&[1, 2, 4, 5], &[2, 4])]
        {
            for kinds in [false, true] {
                let adapters = |plans| {
                    let mut adapters = vec![every(plans, first)];
                    adapters.extend((!second.is_empty()).then(|| every(plans, second)));
                    adapters.extend(kinds.then(low));
                    adapters
                };
                assert_eq!(logits(adapters(Some(&plans))), logits(adapters(None)), "{first:?} {second:?} {kinds}");
            }
        }
    }
}

/// A change of rank 2.
fn low_rank(name: &str, (rows, cols): (usize, usize)) -> Module {
    let (a, b) = (noise(&format!("{name} A"), 2 * cols, 0.5), noise(&format!("{name} B"), rows * 2, 0.5));
    let delta: Arc<dyn Delta> =
        Arc::new(LoraDelta::new(&a, &b, 2, shape(rows, cols), LoraScale::over_rank(4.0)).unwrap());
    Module { name: name.into(), delta }
}

#[test]
fn a_change_of_low_rank_fits_on_every_linear_or_not_at_all() {
    for tiny in Tiny::both() {
        let model = tiny.open().unwrap();
        let mut session = Session::new(model.clone(), &SessionOptions::default()).unwrap();
        let mut logits = |list| {
            session.set_adapters(ActiveAdapters::new(list).unwrap(), SwapPolicy::Recompute).unwrap();
            session.set_tokens(&[1, 4, 5]);
            session.logits(&CancelHandle::default()).unwrap().to_vec()
        };
        let base = logits(Vec::new());
        for (linear, shape) in LINEARS {
            let name = format!("model.layers.1.{linear}");
            let bound = bind(&model, vec![low_rank(&name, shape)]).unwrap();
            assert!(logits(vec![(bound, 1.0)]).iter().zip(&base).all(|(a, b)| a.is_finite() && a != b), "{linear}");
            let turned = (shape.1, shape.0 + 1);
            let error = bind(&model, vec![low_rank(&q(0), Q), low_rank(&name, turned)]).unwrap_err();
            assert!(matches!(&error, ModelError::ModuleShape { found, .. } if *found == turned), "{error}");
        }
        let error = bind(&model, vec![low_rank(&q(LAYERS), Q)]).unwrap_err();
        assert!(matches!(error, ModelError::Modules { matched: 0, total: 1, .. }), "{error}");
        // Both kinds in one adapter, as in two.
        let both = bind(&model, vec![low_rank(&q(0), Q), module(&v(1), V)]).unwrap();
        let apart = [vec![low_rank(&q(0), Q)], vec![module(&v(1), V)]].map(|modules| bind(&model, modules).unwrap());
        assert_eq!(logits(vec![(both, 0.5)]), logits(apart.map(|bound| (bound, 0.5)).to_vec()));
    }
}

#[test]
fn modules_that_are_not_there() {
    for tiny in Tiny::both() {
        let model = tiny.open().unwrap();
        let strays = [
            q(LAYERS),
            q(usize::MAX),
            "model.layers.99999999999999999999999.self_attn.q_proj".to_owned(),
            "model.layers.-1.self_attn.q_proj".to_owned(),
            "model.layers.0.self_attn.qkv_proj".to_owned(),
            "model.layers.0.q_proj".to_owned(),
            "transformer.h.0.attn.c_attn".to_owned(),
            "lm_head".to_owned(),
        ];
        for stray in &strays {
            // Alone, and beside one that fits: neither is applied.
            for matched in [0, 1] {
                let mut modules = vec![module(stray, Q)];
                modules.extend((matched == 1).then(|| module(&q(0), Q)));
                let total = modules.len();
                let error = bind(&model, modules).unwrap_err();
                let ModelError::Modules { adapter, matched: m, total: t, missing } = &error else { panic!("{error}") };
                assert_eq!((adapter.as_str(), *m, *t, missing), ("a", matched, total, &vec![stray.clone()]));
            }
        }
        let many = bind(&model, (2..50).map(|i| module(&q(i), Q)).collect()).unwrap_err();
        let ModelError::Modules { matched: 0, total: 48, missing, .. } = &many else { panic!("{many}") };
        assert_eq!(missing.len(), 4, "a few names are enough");

        let from_file = bind_peft(&model, json!({}), &[&q(LAYERS)]).unwrap_err();
        let unknown = |e: &AdapterError| matches!(e, AdapterError::UnknownModule { module } if *module == q(LAYERS));
        assert!(matches!(&from_file, ModelError::Adapter(e) if unknown(e)), "{from_file}");
    }
}

#[test]
fn shapes_that_differ() {
    let model = Tiny::llama().open().unwrap();
    for found in [(32, 32), (HIDDEN, 64), (64, 33), (2, 2)] {
        let error = bind(&model, vec![module(&v(0), V), module(&q(1), found)]).unwrap_err();
        let ModelError::ModuleShape { module, expected, found: got, .. } = &error else { panic!("{error}") };
        assert_eq!((module, *expected, *got), (&q(1), Q, found));
    }
}

#[test]
fn one_linear_by_two_names() {
    let model = Tiny::gemma3().open().unwrap();
    let inside = "model.language_model.layers.0.self_attn.q_proj";
    assert!(bind(&model, vec![module(inside, Q)]).is_ok());
    for twin in [inside, "model.layers.00.self_attn.q_proj"] {
        let error = bind(&model, vec![module(&q(0), Q), module(twin, Q)]).unwrap_err();
        let twice =
            |e: &AdapterError| matches!(e, AdapterError::Duplicate { module } if *module == q(0) || module == twin);
        assert!(matches!(&error, ModelError::Adapter(e) if twice(e)), "{error}");
    }
}

#[test]
fn another_base() {
    let [llama, gemma3] = Tiny::both().map(|tiny| tiny.open().unwrap());
    let made_for = |base: &str| Arc::new(Adapter::new(vec![module(&q(0), Q)]).unwrap().with_base(base));
    assert!(llama.bind(made_for(llama.gguf().fingerprint()), "a").is_ok());
    let error = gemma3.bind(made_for(llama.gguf().fingerprint()), "a").unwrap_err();
    let ModelError::Adapter(AdapterError::BaseMismatch { found, expected }) = &error else { panic!("{error}") };
    assert_eq!((found.as_str(), expected.as_str()), (llama.gguf().fingerprint(), gemma3.gguf().fingerprint()));
}

#[test]
fn an_adapter_bound_elsewhere() {
    let [llama, gemma3] = Tiny::both().map(|tiny| tiny.open().unwrap());
    let [ours, theirs] = [&llama, &gemma3].map(|model| bind(model, vec![module(&q(0), Q)]).unwrap());
    let error = ActiveAdapters::new(vec![(ours.clone(), 1.0), (theirs.clone(), 1.0)]).unwrap_err();
    assert!(matches!(&error, ModelError::ForeignAdapter { adapter } if adapter == "a"), "{error}");

    let again = Tiny::llama().open().unwrap();
    assert!(ours.is_for(again.gguf()) && !theirs.is_for(again.gguf()), "another copy of the same file");
    drop(again);

    let mut session = Session::new(llama, &SessionOptions::default()).unwrap();
    let own = ActiveAdapters::new(vec![(ours, 1.0)]).unwrap();
    session.set_adapters(own.clone(), SwapPolicy::Recompute).unwrap();
    session.set_tokens(&[1, 4]);
    session.logits(&CancelHandle::default()).unwrap();
    // The last token again, alone, as after what is refused.
    let before = session.logits(&CancelHandle::default()).unwrap().to_vec();
    let foreign = ActiveAdapters::new(vec![(theirs, 1.0)]).unwrap();
    let error = session.set_adapters(foreign, SwapPolicy::Recompute).unwrap_err();
    assert!(matches!(error, SessionError::Model(ModelError::ForeignAdapter { .. })), "{error}");
    assert!(session.adapters().same(&own), "the session keeps what it had");
    assert_eq!((session.cached(), session.logits(&CancelHandle::default()).unwrap()), (2, &mut before.clone()[..]));
}

#[test]
fn weights_that_are_not_numbers() {
    let model = Tiny::llama().open().unwrap();
    let bound = bind(&model, vec![module(&q(0), Q)]).unwrap();
    for weight in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = ActiveAdapters::new(vec![(bound.clone(), 1.0), (bound.clone(), weight)]).unwrap_err();
        let ModelError::Weight { adapter, found } = &error else { panic!("{error}") };
        assert_eq!((adapter.as_str(), found.to_bits()), ("a", weight.to_bits()));
    }
    // Finite, and still too much: the logits say so.
    let huge = bind(&model, vec![module(&v(0), V)]).unwrap();
    let mut session = Session::new(model, &SessionOptions::default()).unwrap();
    session.set_adapters(ActiveAdapters::new(vec![(huge, f32::MAX)]).unwrap(), SwapPolicy::Recompute).unwrap();
    session.set_tokens(&[1, 4]);
    let error = session.logits(&CancelHandle::default()).unwrap_err();
    assert!(matches!(error, SessionError::Model(ModelError::NonFinite { position: 1 })), "{error}");
}

#[test]
fn targets_without_a_spectrum() {
    let model = Tiny::llama().open().unwrap();
    let all = [q(0), v(0), q(1), v(1)];
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    assert!(bind_peft(&model, json!({}), &names).is_ok());
    for gone in 0..names.len() {
        let mut rest = names.clone();
        let gone = rest.remove(gone);
        let error = bind_peft(&model, json!({}), &rest).unwrap_err();
        let ModelError::MissingModules { adapter, count: 1, missing } = &error else { panic!("{error}") };
        assert_eq!((adapter.as_str(), missing.as_slice()), ("a", &[gone.to_owned()][..]));
    }
    let missing = |targets: serde_json::Value, names: &[&str]| match bind_peft(&model, targets, names) {
        Ok(_) => 0,
        Err(ModelError::MissingModules { count, missing, .. }) => {
            assert_eq!(missing.len(), count.min(4));
            count
        }
        Err(error) => panic!("{error}"),
    };
    // Seven linears in each of two layers; the head is not one of `all-linear`, but can be named.
    assert_eq!(missing(json!({"target_modules": "all-linear"}), &names), 2 * 7 - 4);
    assert_eq!(missing(json!({"target_modules": ["q_proj", "v_proj", "lm_head"]}), &names), 1);
    assert_eq!(missing(json!({"target_modules": r".*\.[01]\.self_attn\.[qkv]_proj"}), &names), 2);
    assert_eq!(missing(json!({"target_modules": ["q_proj"], "layers_to_transform": [1]}), &[&q(1)]), 0);
    assert_eq!(missing(json!({"target_modules": [q(1)]}), &[&q(1)]), 0);
    let excluded = json!({"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]});
    assert_eq!(missing(excluded, &[&q(0), &q(1)]), 0);
}

#[test]
fn targets_are_looked_for_by_the_names_of_the_adapters_own_wrapper() {
    let model = Tiny::gemma3().open().unwrap();
    for prefix in ["model.language_model.layers", "language_model.model.layers"] {
        let name = |layer: usize| format!("{prefix}.{layer}.self_attn.q_proj");
        let changes = || json!({"target_modules": ["q_proj"]});
        assert!(bind_peft(&model, changes(), &[&name(0), &name(1)]).is_ok());
        let error = bind_peft(&model, changes(), &[&name(0)]).unwrap_err();
        assert!(
            matches!(&error, ModelError::MissingModules { count: 1, missing, .. } if *missing == [name(1)]),
            "{error}"
        );
    }
}

#[test]
fn a_folder_is_refused_like_its_parts() {
    let model = Tiny::llama().open().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let c = noise("spectrum", N, 0.5);
    std::fs::write(folder.path().join("adapter_config.json"), config(json!({}))).unwrap();
    let write = |names: &[String]| {
        let spectra: Vec<(&str, &[f32])> = names.iter().map(|name| (name.as_str(), &c[..])).collect();
        std::fs::write(folder.path().join("adapter_model.safetensors"), weights(&spectra)).unwrap();
        model.load_adapter(folder.path())
    };
    assert!(write(&[q(0), q(1), v(0), v(1)]).is_ok());
    assert!(matches!(write(&[q(0), q(1)]).unwrap_err(), ModelError::MissingModules { count: 2, .. }));
}
