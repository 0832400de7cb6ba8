//! The registry under running replies: what is handed out stays what it was, whatever becomes of its alias.

mod common;

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use timbre::adapter::{Adapter, AdapterError, AdapterFile, Registry};
use timbre::model::{ActiveAdapters, Model, ModelOptions};
use timbre::session::{GenerateOptions, SamplerOptions, Session, SessionOptions, SwapPolicy};

const PROMPT: [u32; 12] = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 35, 28];
const TOKENS: usize = 16;

fn model() -> Arc<Model> {
    Model::open(common::model_path(common::SMOLLM2), &ModelOptions::default()).unwrap()
}

fn adapter(model: &Model, name: &str) -> Arc<Adapter> {
    let file = AdapterFile::load(&common::fixture_path(&format!("adapters/{name}"))).unwrap();
    Arc::new(file.resolve(model.plans(), |module| model.module_shape(module)).unwrap())
}

fn session(model: &Arc<Model>, adapter: Option<Arc<Adapter>>) -> Session {
    let options = SessionOptions { context: Some(128), ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), &options).unwrap();
    let bound = adapter.map(|adapter| (model.bind(adapter, "voice").unwrap(), 1.0));
    session.set_adapters(ActiveAdapters::new(bound.into_iter().collect()).unwrap(), SwapPolicy::Recompute).unwrap();
    session.set_tokens(&PROMPT);
    session
}

fn options() -> GenerateOptions {
    GenerateOptions { max_tokens: TOKENS, stop_at_end_token: false, ..GenerateOptions::default() }
}

/// A whole reply, nothing else going on.
fn alone(model: &Arc<Model>, adapter: Option<Arc<Adapter>>) -> Vec<u32> {
    let mut session = session(model, adapter);
    let mut generation = session.generate(options()).unwrap();
    generation.text().unwrap();
    generation.ids().to_vec()
}

#[test]
fn a_running_reply_keeps_its_generation() {
    let model = model();
    let (devil, kjv) = (adapter(&model, "devil"), adapter(&model, "kjv"));
    let (first_alone, second_alone) = (alone(&model, Some(devil.clone())), alone(&model, Some(kjv.clone())));
    assert_ne!(first_alone, second_alone, "the two voices differ");
    // Room for one and a half.
    let registry = Registry::new(devil.bytes() * 3 / 2);
    let released = Arc::downgrade(&devil);
    registry.insert("voice", devil).unwrap();

    // Each way an alias can lose its adapter, in the middle of a reply.
    type Disturb<'a> = &'a dyn Fn(&Registry);
    let replace: Disturb<'_> = &|r| assert!(r.insert("voice", kjv.clone()).unwrap().replaced);
    let remove: Disturb<'_> = &|r| drop(r.remove("voice").unwrap());
    let evict: Disturb<'_> = &|r| assert_eq!(r.insert("other", kjv.clone()).unwrap().evicted, ["voice"]);
    for (how, disturb) in [("evicted", evict), ("removed", remove), ("replaced", replace)] {
        let loaded = registry.get("voice").unwrap();
        let mut running = session(&model, Some(loaded.adapter.clone()));
        let mut generation = running.generate(options()).unwrap();
        generation.next_piece().unwrap();
        let begun = generation.ids().len();
        assert!(begun < TOKENS / 2);
        disturb(&registry);
        if let Ok(now) = registry.get("voice") {
            assert!(now.generation > loaded.generation);
            assert_eq!(alone(&model, Some(now.adapter)), second_alone, "a new session has the new generation");
        }
        generation.text().unwrap();
        assert_eq!(generation.ids(), first_alone, "{how}");
        drop(running);
        // Back to where it was, for the next way.
        let _ = registry.remove("other");
        if how != "replaced" {
            registry.insert("voice", loaded.adapter).unwrap();
        }
    }
    assert!(released.upgrade().is_none(), "nobody holds the first generation any more");
}

#[test]
fn an_unknown_alias_is_told_the_known_ones() {
    let model = model();
    let registry = Registry::new(usize::MAX);
    for alias in ["kjv", "devil"] {
        registry.insert(alias, adapter(&model, alias)).unwrap();
    }
    let error = registry.get("devli").unwrap_err();
    assert_eq!(error.to_string(), "no adapter \"devli\"; loaded: devil, kjv");
    let AdapterError::UnknownAlias { alias, known } = error else { panic!("{error}") };
    assert_eq!((alias.as_str(), known.as_slice()), ("devli", &["devil".to_owned(), "kjv".to_owned()][..]));
}

#[test]
fn sessions_on_threads_do_not_disturb_each_other() {
    let model = model();
    let voices = [Some(adapter(&model, "devil")), Some(adapter(&model, "kjv")), None];
    let expected = voices.clone().map(|voice| alone(&model, voice));
    let together = Barrier::new(voices.len());
    std::thread::scope(|scope| {
        for (voice, expected) in voices.iter().zip(&expected) {
            let (model, together) = (&model, &together);
            scope.spawn(move || {
                let mut session = session(model, voice.clone());
                together.wait();
                let mut generation = session.generate(options()).unwrap();
                generation.text().unwrap();
                assert_eq!(generation.ids(), expected);
            });
        }
    });
}

#[test]
fn seeds_decide_what_is_drawn() {
    let model = model();
    let mut session = session(&model, None);
    let mut draw = |seed: u64| {
        session.set_tokens(&PROMPT);
        let sampler = SamplerOptions { temperature: 1.0, seed, ..SamplerOptions::default() };
        session.generate(GenerateOptions { sampler, ..options() }).unwrap().text().unwrap()
    };
    let texts: Vec<String> = (0..3).map(&mut draw).collect();
    for (seed, text) in (0..).zip(&texts) {
        assert_eq!(&draw(seed), text, "seed {seed}");
    }
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2], "{texts:?}");
}

#[test]
fn binding_and_swapping_are_quick() {
    let model = model();
    let file = common::fixture_path("adapters/devil");
    let quickest = |what: &str, limit: Duration, mut work: Box<dyn FnMut() + '_>| {
        let once = |_| {
            let begin = Instant::now();
            work();
            begin.elapsed()
        };
        let least = (0..20).map(once).min().unwrap();
        println!("{what}: {least:?}");
        assert!(least < limit, "{what}: {least:?}");
    };
    let adapter = adapter(&model, "devil");
    let bound = model.bind(adapter.clone(), "devil").unwrap();
    assert_eq!(bound.modules(), 60);
    quickest("loading 60 modules", Duration::from_millis(5), Box::new(|| drop(model.load_adapter(&file).unwrap())));
    quickest(
        "binding 60 modules",
        Duration::from_millis(1),
        Box::new(|| drop(model.bind(adapter.clone(), "devil").unwrap())),
    );
    let sets = [ActiveAdapters::none(), ActiveAdapters::new(vec![(bound, 1.0)]).unwrap()];
    let mut session = session(&model, None);
    let mut turn = 0;
    let swap = Box::new(|| {
        turn += 1;
        session.set_adapters(sets[turn % 2].clone(), SwapPolicy::Recompute).unwrap();
    });
    quickest("swapping", Duration::from_micros(50), swap);
}
