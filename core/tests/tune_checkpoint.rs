//! Checkpoints: a run that stops anywhere, by itself or by a kill, goes on as if it never had.

mod tune_support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use timbre::tune::{Checkpoint, CheckpointError, Event, State, Stop, TuneError};
use tune_support::{Run, load, options, record, timeless};

const STEPS: u64 = 24;

/// The state of a run that nothing stops.
fn whole() -> State {
    let mut run = Run::new(options(STEPS));
    run.go().unwrap();
    timeless(&run.state)
}

fn damage(path: &Path) -> CheckpointError {
    match Checkpoint::new(path, record()).load().unwrap_err() {
        TuneError::Checkpoint { path: named, source } => {
            assert_eq!(named, path);
            source
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_state_comes_back_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::new(folder.path().join("state"), record());
    assert!(checkpoint.load().unwrap().is_none() && !checkpoint.exists());
    let mut run = Run::new(options(7));
    run.go().unwrap();
    // Numbers that text would lose.
    run.state.elapsed = 0.1 + 0.2;
    run.state.parameters[0] = f32::from_bits(1);
    run.state.good.loss = Some(1.0 / 3.0);
    checkpoint.save(&run.state).unwrap();
    assert_eq!(checkpoint.load().unwrap().unwrap(), run.state);
    let old = State::new(vec![0.0; 3]);
    checkpoint.save(&old).unwrap();
    assert_eq!(checkpoint.load().unwrap().unwrap(), old, "the file is replaced");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    checkpoint.remove().unwrap();
    checkpoint.remove().unwrap();
    assert!(!checkpoint.exists());
}

#[test]
fn a_run_stopped_after_any_step_goes_on_as_if_it_never_had() {
    let whole = whole();
    for stop_at in [1, 2, 3, 11, 23] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::new(folder.path().join("state"), record());
        let mut first = Run::new(options(STEPS));
        first.checkpoint = Some(&checkpoint);
        let stop = first.go_with(&mut |event, handle| {
            if let Event::Step(step) = event
                && step.step == stop_at
            {
                handle.cancel();
            }
        });
        assert_eq!(stop.unwrap(), Stop::Cancelled);
        let mut second = Run::new(options(STEPS));
        second.state = load(checkpoint.path());
        assert_eq!(second.state.step, stop_at);
        assert_eq!(second.go().unwrap(), Stop::Budget);
        assert_eq!(timeless(&second.state), whole, "stopped after step {stop_at}");
    }
}

#[test]
fn a_run_of_other_options_is_refused_by_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    Checkpoint::new(&path, record()).save(&State::new(vec![1.0])).unwrap();
    let mut other = record();
    other.insert("data".into(), "another".into());
    let error = Checkpoint::new(&path, other).load().unwrap_err().to_string();
    assert!(error.contains("state: ") && error.contains("data was toy, now it is another"), "{error}");
    let mut more = record();
    more.insert("batch".into(), "4".into());
    let error = Checkpoint::new(&path, more).load().unwrap_err().to_string();
    assert!(error.contains("batch was not set, now it is 4"), "{error}");
}

#[test]
fn what_is_torn_or_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut run = Run::new(options(4));
    run.go().unwrap();
    Checkpoint::new(&path, record()).save(&run.state).unwrap();
    let good = std::fs::read(&path).unwrap();
    for len in [0, 4, 8, 100, good.len() / 2, good.len() - 1] {
        std::fs::write(&path, &good[..len]).unwrap();
        assert!(matches!(damage(&path), CheckpointError::Damaged { .. }), "{len} of {} bytes", good.len());
    }
    // One bit anywhere: in the description, or in any of the numbers.
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 4;
        std::fs::write(&path, &bad).unwrap();
        assert!(Checkpoint::new(&path, record()).load().is_err(), "byte {at}");
    }
    std::fs::write(&path, [&good[..], b"more"].concat()).unwrap();
    assert!(matches!(damage(&path), CheckpointError::Damaged { .. }));
    let at = good.windows(13).position(|w| w == b"\\\"version\\\":2").unwrap();
    for other in [b'1', b'3'] {
        let mut bad = good.clone();
        bad[at + 12] = other;
        std::fs::write(&path, &bad).unwrap();
        let of = u32::from(other - b'0');
        assert!(matches!(damage(&path), CheckpointError::Version { found, expected: 2 } if found == of));
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(damage(&path), CheckpointError::Damaged { .. }), "a folder");
}

/// Where [`child`] keeps its checkpoint.
const PLACE: &str = "TIMBRE_TEST_CHECKPOINT";

/// Not a test of its own: the process that [`a_process_killed_at_any_time_leaves_a_whole_checkpoint`] kills.
#[test]
#[ignore = "run by another test"]
fn child() {
    let checkpoint = Checkpoint::new(std::env::var_os(PLACE).unwrap(), record());
    let mut run = Run::new(timbre::tune::TrainerOptions { checkpoint_every: 1, ..options(STEPS) });
    if let Some(state) = checkpoint.load().unwrap() {
        run.state = state;
    }
    run.objective.before = Box::new(|_| std::thread::sleep(Duration::from_millis(2)));
    run.checkpoint = Some(&checkpoint);
    run.go().unwrap();
}

#[test]
fn a_process_killed_at_any_time_leaves_a_whole_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let spawn = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--ignored"]).env(PLACE, &path);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (mut kills, mut before) = (0, 0);
    for attempt in 0u64.. {
        let mut process = spawn();
        // From before it has begun to after some steps, at odd times.
        std::thread::sleep(Duration::from_micros(3_000 + attempt * 7_919 % 40_000));
        if process.try_wait().unwrap().is_some() {
            let output = process.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            break;
        }
        process.kill().unwrap(); // SIGKILL on Unix
        process.wait().unwrap();
        kills += 1;
        if path.exists() {
            let step = load(&path).step;
            assert!(step >= before, "a checkpoint was lost: {step} after {before}");
            before = step;
        }
        assert!(attempt < 500, "the run does not advance");
    }
    assert!(kills >= 3, "only {kills} kills");
    // The run of many processes, in steps that each were saved, is the run of one.
    let mut whole = Run::new(timbre::tune::TrainerOptions { checkpoint_every: 1, ..options(STEPS) });
    whole.go().unwrap();
    assert_eq!(timeless(&load(&path)), timeless(&whole.state), "after {kills} kills");
}
