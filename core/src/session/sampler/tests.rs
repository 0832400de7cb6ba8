//! Drawing against the softmax, filters against full sorts, and every refusal.

use super::*;
use proptest::prelude::*;

const PLAIN: SamplerOptions = SamplerOptions {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repeat_penalty: 1.0,
    repeat_last_n: 64,
    seed: 7,
};

fn sampler(options: SamplerOptions, vocab: usize) -> Sampler {
    Sampler::new(options, vocab).unwrap()
}

/// How often each token comes up.
fn frequencies(options: SamplerOptions, logits: &[f32], draws: usize) -> Vec<f64> {
    let mut sampler = sampler(options, logits.len());
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(&mut logits.to_vec(), &[]).unwrap() as usize] += 1.0 / draws as f64;
    }
    counts
}

#[test]
fn the_generator_is_the_published_one() {
    // The well-known first outputs for seed 1234567.
    let mut random = SplitMix64(1234567);
    let expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431];
    assert_eq!([(); 4].map(|()| random.next()), expected);
}

#[test]
fn greedy_takes_the_best_and_the_lowest_id_of_equals() {
    let mut sampler = sampler(SamplerOptions::greedy(), 4);
    assert_eq!(sampler.sample(&mut [0.0, 3.0, 3.0, -1.0], &[]), Ok(1));
    assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY, -2.0, -3.0, -2.0], &[]), Ok(1));
    for at in 0..100 {
        let mut logits: Vec<f32> = (0..100).map(|i| (i as f32).sin()).collect();
        logits[at..].iter_mut().step_by(37).for_each(|logit| *logit = 2.0);
        assert_eq!(Sampler::new(SamplerOptions::greedy(), 100).unwrap().sample(&mut logits, &[]), Ok(at as u32));
    }
}

#[test]
fn draws_follow_the_softmax_at_every_temperature() {
    let logits = [1.0f32, 2.0, -1.0, 0.5, f32::NEG_INFINITY];
    for temperature in [0.3f64, 1.0, 2.5] {
        let weights = logits.map(|logit| (f64::from(logit) / temperature).exp());
        let total: f64 = weights.iter().sum();
        let options = SamplerOptions { temperature: temperature as f32, ..PLAIN };
        let draws = 100_000;
        for (found, weight) in frequencies(options, &logits, draws).into_iter().zip(weights) {
            let p = weight / total;
            // Four standard deviations of a binomial frequency.
            let tolerance = 4.0 * (p * (1.0 - p) / draws as f64).sqrt();
            assert!((found - p).abs() <= tolerance, "T {temperature}: {found} for {p}");
        }
    }
}

#[test]
fn equal_seeds_draw_equal_tokens_and_others_differ() {
    let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
    let draw = |seed| {
        let mut sampler = sampler(SamplerOptions { seed, ..PLAIN }, 1000);
        (0..64).map(|_| sampler.sample(&mut logits.clone(), &[]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
}

#[test]
fn the_penalty_counts_a_token_once_and_only_lately() {
    let options = SamplerOptions { repeat_penalty: 2.0, repeat_last_n: 3, ..SamplerOptions::greedy() };
    let mut sampler = sampler(options, 4);
    let mut logits = [4.0, 3.0, -1.0, 1.0];
    assert_eq!(sampler.sample(&mut logits, &[1, 0, 0, 2, u32::MAX, 9, 0, 2][..4]), Ok(1));
    assert_eq!(logits, [2.0, 3.0, -2.0, 1.0]);
    assert_eq!(sampler.sample(&mut [4.0, 3.0, -1.0, 1.0], &[u32::MAX, 3]), Ok(0));
    assert!(sampler.penalised.iter().all(|&word| word == 0));
}

#[test]
fn wrong_options_and_logits_are_named() {
    type Change = fn(&mut SamplerOptions);
    let changes: [(&str, Change); 8] = [
        ("temperature", |o| o.temperature = f32::NAN),
        ("temperature", |o| o.temperature = -0.1),
        ("temperature", |o| o.temperature = f32::INFINITY),
        ("top_p", |o| o.top_p = 1.1),
        ("top_p", |o| o.top_p = f32::NAN),
        ("min_p", |o| o.min_p = -0.5),
        ("repeat_penalty", |o| o.repeat_penalty = 0.0),
        ("repeat_penalty", |o| o.repeat_penalty = f32::NAN),
    ];
    for (field, change) in changes {
        let mut options = PLAIN;
        change(&mut options);
        let error = Sampler::new(options, 4).unwrap_err();
        assert!(matches!(error, SamplerError::Option { name, .. } if name == field), "{error}");
    }
    assert_eq!(Sampler::new(PLAIN, 0).unwrap_err(), SamplerError::EmptyVocabulary);
    for options in [PLAIN, SamplerOptions::greedy()] {
        let mut sampler = sampler(options, 2);
        assert_eq!(sampler.sample(&mut [0.0], &[]), Err(SamplerError::Length { expected: 2, found: 1 }));
        for value in [f32::NAN, f32::INFINITY] {
            let error = sampler.sample(&mut [0.0, value], &[]).unwrap_err();
            assert!(matches!(error, SamplerError::Logit { id: 1, .. }), "{error}");
        }
        assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY; 2], &[]), Err(SamplerError::NothingLeft));
    }
}

#[test]
fn extreme_options_still_draw() {
    let temperatures = [f32::MIN_POSITIVE, 1e-45, f32::MAX];
    for temperature in temperatures {
        let options = SamplerOptions { temperature, repeat_penalty: f32::MIN_POSITIVE, ..PLAIN };
        let mut sampler = sampler(options, 3);
        let id = sampler.sample(&mut [f32::MAX, f32::MIN, 0.0], &[0, 1]).unwrap();
        assert!(id < 3);
    }
}

/// Every filter by a full sort, in the documented order.
fn naive(options: &SamplerOptions, logits: &[f32]) -> Vec<u32> {
    let mut kept: Vec<Candidate> = (0u32..).zip(logits).map(|(id, &logit)| Candidate { id, logit }).collect();
    kept.sort_by(Candidate::order);
    if options.top_k > 0 {
        kept.truncate(options.top_k);
    }
    let p = |kept: &[Candidate]| -> Vec<f64> {
        let weights: Vec<f64> = kept.iter().map(|c| f64::from(c.logit - kept[0].logit).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| w / total).collect()
    };
    if options.top_p < 1.0 {
        let mut sum = 0.0;
        let count = p(&kept).iter().position(|p| {
            sum += p;
            sum >= f64::from(options.top_p)
        });
        kept.truncate(count.map_or(kept.len(), |last| last + 1));
    }
    let least = p(&kept)[0] * f64::from(options.min_p);
    let probabilities = p(&kept);
    kept.truncate(probabilities.iter().filter(|p| **p >= least).count());
    let mut ids: Vec<u32> = kept.iter().map(|c| c.id).collect();
    ids.sort_unstable();
    ids
}

proptest! {
    #[test]
    fn filters_keep_what_full_sorts_keep_and_allocate_nothing(
        // Few distinct values, so that ties are common; their exponentials stay away from the filters' bounds.
        steps in prop::collection::vec(0u8..40, 1..600),
        top_k in prop_oneof![Just(0usize), 1usize..50, Just(10_000)],
        top_p in prop_oneof![Just(1.0f32), Just(0.0), 0.05f32..0.99],
        min_p in prop_oneof![Just(0.0f32), 0.001f32..0.9],
    ) {
        let logits: Vec<f32> = steps.iter().map(|&step| f32::from(step) * 0.27).collect();
        let options = SamplerOptions { top_k, top_p, min_p, ..PLAIN };
        let mut sampler = sampler(options, logits.len());
        let capacity = sampler.candidates.capacity();
        sampler.keep(&logits);
        let mut ids: Vec<u32> = sampler.candidates.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        let expected = naive(&options, &logits);
        // A sum that reaches top-p up to rounding may stop one candidate apart.
        prop_assert!(ids.len().abs_diff(expected.len()) <= usize::from(top_p < 1.0), "{:?} {:?}", ids, expected);
        if ids.len() == expected.len() {
            prop_assert_eq!(ids, expected);
        }
        prop_assert_eq!(sampler.candidates.capacity(), capacity);
    }
}
