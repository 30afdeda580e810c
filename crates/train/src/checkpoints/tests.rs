use super::*;

fn state(step: u64) -> TrainingState {
    TrainingState {
        version: TrainingState::VERSION,
        step,
        optimizer_steps: step,
        tokens: step * 10,
        position: fathom_data::Position {
            dataset: "x".to_owned(),
            seq: 8,
            seed: 1,
            shuffle: true,
            rows: step,
        },
        best: Some(Best { loss: 1.0 / 3.0, step: 1 }),
        recent_losses: vec![0.1, 0.2],
        skips: 0,
        seconds: 1.5,
        config: serde_json::json!({ "seed": 1 }),
        files: Vec::new(),
    }
}

fn save(checkpoints: &Checkpoints, step: u64) -> Saved {
    let write = |directory: &Path| {
        fs::create_dir(directory.join("ema")).unwrap();
        fs::write(directory.join("ema/weights"), format!("average {step}")).unwrap();
        fs::write(directory.join("weights"), format!("weights {step}")).unwrap();
        Ok(())
    };
    checkpoints.save(state(step), 0, write).unwrap()
}

#[test]
fn the_newest_complete_one_is_found() {
    let scratch = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(scratch.path());
    assert!(matches!(checkpoints.newest(), Err(Error::NothingToResume { .. })));
    save(&checkpoints, 5);
    let saved = save(&checkpoints, 20);
    // What a kill leaves: half a checkpoint under its other name.
    fs::create_dir(scratch.path().join("checkpoints/step-00000030.partial")).unwrap();
    let (newest, read) = checkpoints.newest().unwrap();
    assert_eq!(newest, saved);
    let names: Vec<&str> = read.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["ema/weights", "weights"]);
    assert_eq!(TrainingState { files: Vec::new(), ..read }, state(20));
    let latest = fs::read_to_string(scratch.path().join("checkpoints/latest")).unwrap();
    assert_eq!(latest, "step-00000020\n");
    save(&checkpoints, 31);
    assert!(!scratch.path().join("checkpoints/step-00000030.partial").exists(), "leftovers go");
    checkpoints.forget_after(20).unwrap();
    assert_eq!(checkpoints.newest().unwrap().0.step, 20);
}

#[test]
fn damage_is_named_and_the_one_before_offered() {
    let scratch = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(scratch.path());
    for (step, name, contents, expected) in [
        (10, "weights", &b"weights x9"[..], "is not what was written"),
        (11, "weights", b"weights", "weights has 7 bytes, expected 10"),
        (12, "state.json", b"{", "state.json: "),
    ] {
        save(&checkpoints, 5);
        let saved = save(&checkpoints, step);
        fs::write(saved.path.join(name), contents).unwrap();
        let message = checkpoints.newest().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(message.contains(&saved.path.display().to_string()), "{message}");
        assert!(message.contains("step-00000005 is whole: go on from there with --resume"), "{message}");
        fs::remove_dir_all(&saved.path).unwrap();
    }
}

#[test]
fn the_last_and_the_best_stay() {
    let scratch = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(scratch.path());
    (1..=5).for_each(|step| drop(save(&checkpoints, step)));
    checkpoints.prune(2, Some(2)).unwrap();
    let steps: Vec<u64> = checkpoints.list().unwrap().iter().map(|saved| saved.step).collect();
    assert_eq!(steps, [2, 4, 5]);
}

#[test]
fn a_failed_save_leaves_everything_as_it_was() {
    let scratch = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of(scratch.path());
    save(&checkpoints, 1);
    let failed = checkpoints.save(state(2), 0, |directory| {
        fs::write(directory.join("half"), "x").unwrap();
        Err(Error::NothingToResume { path: directory.to_owned() })
    });
    assert!(failed.is_err());
    assert_eq!(fs::read_dir(scratch.path().join("checkpoints")).unwrap().count(), 2, "step 1 and latest");
    let message = checkpoints.save(state(2), u64::MAX, |_| Ok(())).unwrap_err().to_string();
    assert!(message.contains("bytes are needed for a checkpoint and"), "{message}");
}
