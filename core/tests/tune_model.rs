//! Fine-tuning whole small models: what is learnt, saved, continued and refused.

mod model_support;

use std::sync::Arc;

use model_support::{LAYERS, Tiny, VOCAB};
use timbre::adapter::{Adapter, AdapterFile, Names};
use timbre::model::{LinearKind, Model, ModelError, Sequence};
use timbre::tune::data::{Dataset, Examples};
use timbre::tune::{
    Begin, Budget, Event, LayerRanges, Method, NewAdapter, Rate, Schedule, Shape, State, Stop, Targets, TrainerOptions,
    TuneError, Tuned, Tuner, TunerOptions,
};

const FOURIER: Method = Method::Fourier { n: 64, alpha: 300.0, entries_seed: 7, begin: Begin::Zeros };

/// A language that is easy to learn: counting through the vocabulary from anywhere.
fn data() -> Dataset {
    let sequence = |start: usize| Sequence {
        tokens: (0..12).map(|i| ((start + i) % VOCAB) as u32).collect(),
        targets: (0..12).map(|i| i > 0).collect(),
    };
    Dataset::new(Examples::new((0..9).map(sequence).collect()), Some(Examples::new((9..12).map(sequence).collect())))
}

fn new(method: Method, targets: Targets) -> NewAdapter {
    NewAdapter { method, targets, ..NewAdapter::default() }
}

fn all_linear() -> Targets {
    Targets::parse("all-linear").unwrap()
}

fn options(adapter: &Adapter, steps: u64) -> TunerOptions {
    let rate = match Rate::default_for(adapter) {
        Rate::Movement(_) => Rate::Movement(0.05),
        Rate::Parameter(_) => Rate::Parameter(0.01),
    };
    let trainer = TrainerOptions { budget: Budget::Steps(steps), checkpoint_every: 4, ..TrainerOptions::new(rate) };
    TunerOptions { trainer, memory_limit: None }
}

fn tuner(model: &Arc<Model>, adapter: Adapter, steps: u64) -> Tuner {
    let options = options(&adapter, steps);
    Tuner::new(model.clone(), adapter, data(), options).unwrap()
}

fn run(tuner: &mut Tuner) -> Tuned {
    tuner.run(tuner.begin(), None, &mut |_| {}).unwrap()
}

#[test]
fn every_kind_learns_on_every_architecture() {
    for tiny in Tiny::both() {
        let model = tiny.open().unwrap();
        for method in [FOURIER, Method::Lora { rank: 4, alpha: 8.0 }] {
            let start = new(method, all_linear()).build(&model).unwrap();
            assert_eq!(start.len(), LAYERS * LinearKind::ALL.len());
            let tuned = run(&mut tuner(&model, start, 60));
            let (before, after) = (tuned.heldout_before.unwrap(), tuned.heldout_after.unwrap());
            assert!(after < 0.7 * before, "{method:?}: {before} → {after}");
            assert_eq!((tuned.stop, tuned.state.step), (Stop::Budget, 60));
        }
    }
}

#[test]
fn the_loss_is_scored_before_anything_is_learnt() {
    let model = Tiny::llama().open().unwrap();
    // Zeros and a B of zeros are the base model, N(0, 1) is not.
    let before = |method| {
        let start = new(method, Targets::default()).build(&model).unwrap();
        run(&mut tuner(&model, start, 1)).heldout_before.unwrap()
    };
    let zeros = before(FOURIER);
    assert_eq!(zeros, before(Method::Lora { rank: 2, alpha: 4.0 }));
    let normal = before(Method::Fourier { n: 64, alpha: 300.0, entries_seed: 7, begin: Begin::Normal });
    assert!((normal - zeros).abs() > 1e-3, "{normal} {zeros}");
}

#[test]
fn what_is_saved_is_what_was_learnt() {
    let model = Tiny::llama().open().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let layers: LayerRanges = "1".parse().unwrap();
    for (method, targets, names, numbers) in [
        (
            FOURIER,
            Targets::default().in_layers(layers),
            Names::List(vec!["q_proj".into(), "v_proj".into()]),
            Some(vec![1]),
        ),
        (FOURIER, all_linear(), Names::AllLinear, None),
        (Method::Lora { rank: 2, alpha: 4.0 }, all_linear(), Names::AllLinear, None),
    ] {
        let start = NewAdapter { base_name: Some("a/b".into()), ..new(method, targets) }.build(&model).unwrap();
        let tuned = run(&mut tuner(&model, start, 8));
        let (dir, single) = (folder.path().join("peft"), folder.path().join("one.safetensors"));
        let _ = std::fs::remove_dir_all(&dir);
        tuned.adapter.save_peft(&dir).unwrap();
        tuned.adapter.save_single(&single, false).unwrap();
        let file = AdapterFile::load(&dir).unwrap();
        let config = file.config().unwrap();
        assert_eq!((&config.target_modules, &config.layers_to_transform), (&names, &numbers));
        assert_eq!((config.base_model.as_deref(), config.task_type.as_deref()), (Some("a/b"), Some("CAUSAL_LM")));
        let learnt = model.bind(Arc::new(tuned.adapter), "learnt").unwrap();
        let parameters = |bound: &timbre::model::BoundAdapter| {
            let mut parameters = vec![0.0; bound.parameters()];
            bound.read_parameters(&mut parameters);
            parameters
        };
        assert!(parameters(&learnt).iter().any(|p| *p != 0.0));
        for path in [&dir, &single] {
            assert_eq!(parameters(&model.load_adapter(path).unwrap()), parameters(&learnt), "{}", path.display());
        }
        // One that is loaded can be learnt further.
        let loaded = AdapterFile::load(&single).unwrap();
        let start = loaded.resolve(model.plans(), |module| model.module_shape(module)).unwrap();
        let further = run(&mut tuner(&model, start, 8));
        assert_eq!(further.heldout_before, tuned.heldout_after);
        assert!(further.heldout_after < further.heldout_before);
    }
}

/// A state without what the clock says.
fn timeless(state: &State) -> State {
    State { elapsed: 0.0, evaluation_seconds: 0.0, ..state.clone() }
}

#[test]
fn a_run_goes_on_from_its_checkpoint_and_no_other() {
    let model = Tiny::gemma3().open().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let start = || new(FOURIER, Targets::default()).build(&model).unwrap();
    let whole = run(&mut tuner(&model, start(), 14));

    let mut first = tuner(&model, start(), 14);
    let (checkpoint, handle) = (first.checkpoint(&path), first.handle());
    let stopped = first.run(first.begin(), Some(&checkpoint), &mut |event| {
        if let Event::Step(step) = event
            && step.step == 6
        {
            handle.cancel();
        }
    });
    let stopped = stopped.unwrap();
    assert_eq!((stopped.stop, stopped.adapter_step), (Stop::Cancelled, 6));
    let mut second = tuner(&model, start(), 14);
    let state = second.checkpoint(&path).load().unwrap().unwrap();
    let rest = second.run(state, None, &mut |_| {}).unwrap();
    assert_eq!(timeless(&rest.state), timeless(&whole.state));
    assert_eq!((rest.heldout_before, rest.heldout_after), (whole.heldout_before, whole.heldout_after));

    let differs = |tuner: Tuner, what: &str| {
        let error = tuner.checkpoint(&path).load().unwrap_err().to_string();
        assert!(error.contains(&format!("another run: {what} was ")), "{error}");
    };
    differs(tuner(&model, start(), 15), "budget");
    differs(tuner(&model, new(FOURIER, all_linear()).build(&model).unwrap(), 14), "adapter");
    let other = Method::Fourier { n: 64, alpha: 300.0, entries_seed: 8, begin: Begin::Zeros };
    differs(tuner(&model, new(other, Targets::default()).build(&model).unwrap(), 14), "adapter");
    let options = options(&start(), 14);
    let fewer = Dataset::new(data().train().clone(), None);
    differs(Tuner::new(model.clone(), start(), fewer, options.clone()).unwrap(), "data");
    let seeded = TunerOptions { trainer: TrainerOptions { seed: 1, ..options.trainer.clone() }, ..options.clone() };
    differs(Tuner::new(model.clone(), start(), data(), seeded).unwrap(), "seed");
    let flat = Schedule { shape: Shape::Constant, ..options.trainer.schedule };
    let flat = TunerOptions { trainer: TrainerOptions { schedule: flat, ..options.trainer.clone() }, ..options };
    differs(Tuner::new(model.clone(), start(), data(), flat).unwrap(), "schedule");
    let mut norm = Tiny::gemma3();
    norm.vector("output_norm.weight", &[1.0; model_support::HIDDEN]);
    let changed = norm.open().unwrap();
    differs(tuner(&changed, new(FOURIER, Targets::default()).build(&changed).unwrap(), 14), "base model");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let model = Tiny::llama().open().unwrap();
    let start = || new(FOURIER, Targets::default()).build(&model).unwrap();
    let limited = TunerOptions { memory_limit: Some(1000), ..options(&start(), 1) };
    let error = Tuner::new(model.clone(), start(), data(), limited).err().unwrap();
    assert!(matches!(error, TuneError::Model(ModelError::TuneMemory { limit: 1000, .. })), "{error}");
    // A limit that only the longest sequence fits is kept by running fewer together.
    let needed = |limit| {
        let options = TunerOptions { memory_limit: limit, ..options(&start(), 1) };
        Tuner::new(model.clone(), start(), data(), options).map(|tuner| tuner.planned_bytes())
    };
    let whole = needed(None).unwrap();
    let tight = needed(Some(whole / 2)).unwrap();
    assert!(tight <= whole / 2, "{tight} of {whole}");

    let refused = |adapter: NewAdapter| adapter.build(&model).unwrap_err();
    let n = Method::Fourier { n: 1 << 20, alpha: 300.0, entries_seed: 7, begin: Begin::Zeros };
    assert!(matches!(refused(new(n, Targets::default())), TuneError::Entries { .. }));
    for rank in [0, 33] {
        let error = refused(new(Method::Lora { rank, alpha: 1.0 }, Targets::default()));
        assert!(matches!(error, TuneError::Option { name: "rank", .. }), "{error}");
    }
    let layer = Targets::default().in_layers("0-2".parse().unwrap());
    assert!(matches!(refused(new(FOURIER, layer)), TuneError::Layer { found: 2, last: 1 }));
    let other = Tiny::gemma3().open().unwrap();
    let foreign = new(FOURIER, Targets::default()).build(&other).unwrap();
    let error = Tuner::new(model.clone(), foreign, data(), options(&start(), 1)).err().unwrap();
    assert!(matches!(error, TuneError::Model(_)), "{error}");
}
