//! The loop of fine-tuning on a small real objective.

mod tune_support;

use std::time::{Duration, Instant};

use timbre::tune::{Budget, Event, Rate, Schedule, Shape, Stop, TuneError};
use tune_support::{Run, data, options, timeless};

fn scored(run: &Run<'_>) -> Vec<f64> {
    run.state.evaluations.iter().map(|(_, loss)| *loss).collect()
}

#[test]
fn what_the_teacher_does_is_learnt() {
    let mut run = Run::new(timbre::tune::TrainerOptions { rate: Rate::Movement(0.2), ..options(150) });
    assert_eq!(run.go().unwrap(), Stop::Budget);
    let losses = scored(&run);
    assert_eq!(losses.len(), 7, "before, five times, and after");
    assert!(losses.last().unwrap() < &(0.02 * losses[0]), "{losses:?}");
    assert_eq!((run.state.step, run.state.losses.len()), (150, 150));
    assert_eq!(run.state.good.loss, losses.iter().copied().reduce(f64::min));
    assert_eq!(run.state.cursor.epoch, 24, "six batches an epoch, the last of two");
}

#[test]
fn a_seed_gives_one_run() {
    let run = |seed| {
        let mut run = Run::new(tune_options(seed));
        run.go().unwrap();
        (run.told, timeless(&run.state))
    };
    fn tune_options(seed: u64) -> timbre::tune::TrainerOptions {
        timbre::tune::TrainerOptions { seed, ..options(20) }
    }
    assert_eq!(run(4), run(4));
    assert_ne!(run(4).0, run(5).0);
}

#[test]
fn batches_added_up_are_one_batch() {
    let run = |batch, accumulate| {
        let mut run = Run::new(timbre::tune::TrainerOptions { batch, accumulate, ..options(12) });
        run.go().unwrap();
        run.state
    };
    let (whole, parts) = (run(6, 1), run(2, 3));
    // Up to the order of sums. An epoch of 22 ends differently in batches of 6 and of 2.
    assert!((whole.losses[0] - parts.losses[0]).abs() < 1e-6);
    assert!((whole.losses[2] - parts.losses[2]).abs() < 1e-5);
    assert_ne!(whole.losses, run(2, 1).losses);
}

#[test]
fn the_rate_warms_up_and_falls() {
    let mut run = Run::new(timbre::tune::TrainerOptions {
        schedule: Schedule { warmup: 0.2, shape: Shape::Cosine },
        ..options(10)
    });
    let mut rates = Vec::new();
    run.go_with(&mut |event, _| {
        if let Event::Step(step) = event {
            rates.push(step.lr / 0.05);
        }
    })
    .unwrap();
    for (found, expected) in rates.iter().zip([0.1, 0.55, 1.0, 0.961_939_766, 0.853_553_39]) {
        assert!((found - expected).abs() < 1e-6, "{rates:?}");
    }
    assert!(rates[9] < 0.05);
}

#[test]
fn no_lower_loss_ends_the_run_early() {
    // A rate too high to come to rest, and scorings after every step.
    let mut run = Run::new(timbre::tune::TrainerOptions {
        rate: Rate::Movement(0.5),
        patience: Some(2),
        evaluations: 199,
        schedule: Schedule { warmup: 0.0, shape: Shape::Constant },
        ..options(200)
    });
    assert_eq!(run.go().unwrap(), Stop::Early);
    let losses = scored(&run);
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(run.state.good.loss, Some(best));
    assert!(losses[losses.len() - 2..].iter().all(|l| *l >= best));
    assert!(run.state.step < 200 && run.state.good.step == run.state.step - 2);
    assert_ne!(run.state.good.parameters, run.state.parameters);
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_at_the_last_good_state() {
    for heldout in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = timbre::tune::Checkpoint::new(folder.path().join("c"), tune_support::record());
        let mut run = Run::new(options(30));
        run.data = data(heldout);
        run.objective.breaks_at = Some(15);
        run.checkpoint = Some(&checkpoint);
        let stop = run.go().unwrap();
        let Stop::Diverged { step, loss } = stop else { panic!("{stop:?}") };
        assert!(loss.is_nan() && step > 10, "{step}");
        assert!(run.state.good.step > 0 && run.state.good.step < step);
        assert!(run.state.good.parameters.iter().all(|p| p.is_finite()));
        assert!(run.state.parameters.iter().all(|p| p.is_finite()), "no step was taken with it");
        let saved = checkpoint.load().unwrap().unwrap();
        assert!(saved.step < step && saved.losses.iter().all(|l| l.is_finite()));
    }
}

#[test]
fn a_loss_that_explodes_ends_the_run() {
    let mut run = Run::new(timbre::tune::TrainerOptions {
        rate: Rate::Movement(50.0),
        schedule: Schedule { warmup: 0.0, shape: Shape::Constant },
        ..options(100)
    });
    let stop = run.go().unwrap();
    assert!(matches!(stop, Stop::Diverged { step: 2..20, .. }), "{stop:?}");
    assert_eq!(run.state.good.step, 0, "nothing after the beginning was better");
}

#[test]
fn a_run_is_cancelled_within_a_step() {
    let mut run = Run::new(options(1000));
    let stop = run.go_with(&mut |event, handle| {
        if let Event::Step(step) = event
            && step.step == 7
        {
            handle.cancel();
        }
    });
    assert_eq!((stop.unwrap(), run.state.step), (Stop::Cancelled, 7));
    // In the middle of a step: the step is thrown away whole, and the next run takes it again.
    let mut whole = Run::new(options(10));
    whole.go().unwrap();
    let mut run = Run::new(options(10));
    let handle = run.handle.clone();
    run.objective.before = Box::new(move |pass| {
        if pass == 5 {
            handle.cancel();
        }
    });
    assert_eq!(run.go().unwrap(), Stop::Cancelled);
    let mut rest = Run::new(options(10));
    rest.state = run.state;
    let taken = rest.state.step;
    assert!((1..10).contains(&taken), "{taken}");
    assert_eq!(rest.go().unwrap(), Stop::Budget);
    assert_eq!(timeless(&rest.state), timeless(&whole.state));
}

#[test]
fn a_pause_takes_none_of_the_time() {
    let mut run = Run::new(options(6));
    let pause = Duration::from_millis(300);
    let begin = Instant::now();
    let stop = run.go_with(&mut |event, handle| match event {
        Event::Step(step) if step.step == 3 => handle.pause(),
        Event::Paused { .. } => {
            assert!(handle.is_paused());
            let handle = handle.clone();
            std::thread::spawn(move || {
                std::thread::sleep(pause);
                handle.resume();
            });
        }
        _ => {}
    });
    assert_eq!(stop.unwrap(), Stop::Budget);
    assert!(begin.elapsed() >= pause && run.state.elapsed < begin.elapsed().as_secs_f64() - 0.29);
    let at = run.told.iter().position(|line| line == "paused 3").unwrap();
    assert_eq!(run.told[at + 1], "resumed 3");
    // A run that waits can be stopped.
    let mut run = Run::new(options(6));
    run.handle.pause();
    let stop = run.go_with(&mut |event, handle| {
        if let Event::Paused { .. } = event {
            let cancel = handle.cancel_handle();
            std::thread::spawn(move || cancel.cancel());
        }
    });
    assert_eq!((stop.unwrap(), run.state.step), (Stop::Cancelled, 0));
}

#[test]
fn seconds_are_kept() {
    let mut run = Run::new(timbre::tune::TrainerOptions { budget: Budget::Seconds(1.0), ..options(1) });
    run.objective.before = Box::new(|_| std::thread::sleep(Duration::from_millis(20)));
    let begin = Instant::now();
    let mut rates = Vec::new();
    run.go_with(&mut |event, _| {
        if let Event::Step(step) = event {
            rates.push(step.lr);
        }
    })
    .unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    assert!((0.5..1.5).contains(&seconds), "{seconds}");
    assert!(run.state.step > 10 && rates.last().unwrap() < &(0.2 * rates[rates.len() / 2]), "{rates:?}");
    // Less than any step takes is one step.
    let mut run = Run::new(timbre::tune::TrainerOptions { budget: Budget::Seconds(1e-6), ..options(1) });
    assert_eq!((run.go().unwrap(), run.state.step), (Stop::Budget, 1));
}

#[test]
fn options_that_cannot_be_are_refused() {
    let good = options(1);
    let refused = |options: timbre::tune::TrainerOptions, name: &str| {
        let error = options.check().unwrap_err();
        assert!(matches!(&error, TuneError::Option { name: found, .. } if *found == name), "{error}");
    };
    refused(timbre::tune::TrainerOptions { budget: Budget::Steps(0), ..good.clone() }, "steps");
    for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refused(timbre::tune::TrainerOptions { budget: Budget::Seconds(seconds), ..good.clone() }, "seconds");
    }
    refused(timbre::tune::TrainerOptions { batch: 0, ..good.clone() }, "batch");
    refused(timbre::tune::TrainerOptions { accumulate: 0, ..good.clone() }, "accumulate");
    refused(timbre::tune::TrainerOptions { patience: Some(0), ..good.clone() }, "patience");
    refused(timbre::tune::TrainerOptions { checkpoint_every: 0, ..good.clone() }, "checkpoint interval");
    refused(timbre::tune::TrainerOptions { clip: Some(0.0), ..good.clone() }, "clip");
    refused(timbre::tune::TrainerOptions { rate: Rate::Movement(-1.0), ..good.clone() }, "learning rate");
    let adam = timbre::tune::AdamOptions { beta2: 1.0, ..good.adam };
    refused(timbre::tune::TrainerOptions { adam, ..good.clone() }, "beta2");
    assert!(good.check().is_ok());
}
