//! `fathom chat` with messages piped in.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fathom::{Ran, fixture, run_with};

fn chat(args: &[&str], lines: &[&str]) -> Ran {
    let args = [&["--dtype", "f32", "--greedy", "--max-tokens", "6"], args].concat();
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    run_with("chat", &fixture("tiny-v3"), &args, input.as_bytes())
}

fn roles(file: &Value) -> Vec<&str> {
    file["messages"].as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect()
}

#[test]
fn a_conversation_and_its_commands() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("talk.json");
    let save = format!("/save {}", file.display());
    let saved = || serde_json::from_slice::<Value>(&std::fs::read(&file).unwrap()).unwrap();

    let first = chat(&[], &["Hello", &save]).ok();
    let talk = saved();
    assert_eq!(roles(&talk), ["user", "assistant"]);
    assert_eq!(talk["messages"][0]["content"], "Hello");
    assert_eq!(first.stdout, format!("{}\n", talk["messages"][1]["content"].as_str().unwrap()));
    assert!(first.stderr.contains("6 tokens") && first.stderr.contains("tokens/s"), "{}", first.stderr);

    // A second turn is answered in the light of the first; /reset forgets it.
    let both = chat(&[], &["Hello", "And now?", &save]).ok();
    assert_eq!(roles(&saved()), ["user", "assistant", "user", "assistant"]);
    let alone = chat(&[], &["And now?"]).ok();
    assert_ne!(both.stdout, format!("{}{}", first.stdout, alone.stdout));
    let reset = chat(&[], &["Hello", "/reset", "And now?", &save]).ok();
    assert_eq!(reset.stdout, format!("{}{}", first.stdout, alone.stdout));
    assert_eq!(roles(&saved()), ["user", "assistant"]);

    chat(&["--system", "A"], &["Hello", "/system B", &save]).ok();
    assert_eq!(saved()["messages"][0], json!({ "role": "system", "content": "B" }));
    chat(&["--system", "A"], &["/system", "/help", "", &save, "/quit", "never read"]).ok();
    assert_eq!(saved(), json!({ "messages": [] }));
}

#[test]
#[cfg(unix)]
fn saving_goes_through_links_and_replaces_only_files() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let save = |name: &str| chat(&[], &[&format!("/save {}", at(name).display())]);
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    for name in ["fifo", "folder"] {
        save(name).refused(&[name, "is not a regular file; give another name"]);
    }
    std::os::unix::fs::symlink("folder/talk.json", at("link")).unwrap();
    save("link").ok();
    assert!(at("link").is_symlink());
    let saved: Value = serde_json::from_slice(&std::fs::read(at("folder/talk.json")).unwrap()).unwrap();
    assert_eq!(saved, json!({ "messages": [] }));
}

#[test]
fn an_answer_can_be_given_again() {
    let greedy = chat(&[], &["Hello", "/regenerate"]).ok().stdout;
    let (first, second) = greedy.split_at(greedy.len() / 2);
    assert_eq!(first, second, "the likeliest answer stays");
    let drawn = |lines: &[&str]| {
        let args = ["--seed", "5", "--temperature", "1.5", "--max-tokens", "12"];
        let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
        run_with("chat", &fixture("tiny-v3"), &args, input.as_bytes()).ok().stdout
    };
    let (once, twice) = (drawn(&["Hello"]), drawn(&["Hello", "/regenerate"]));
    let again = twice.strip_prefix(&once).unwrap();
    assert_ne!(again, once, "with a seed there is another answer too");
    assert_eq!(drawn(&["Hello", "/regenerate"]), twice);
}

#[test]
fn messages_of_many_lines() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("talk.json");
    let save = format!("/save {}", file.display());
    chat(&[], &["one\\", "two", "\"\"\"three", "", "four\"\"\"", " /five", &save]).ok();
    let talk: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let users: Vec<&Value> =
        talk["messages"].as_array().unwrap().iter().step_by(2).map(|message| &message["content"]).collect();
    assert_eq!(users, ["one\ntwo", "three\n\nfour", "/five"]);
}

#[test]
fn the_oldest_is_forgotten_when_the_context_is_full() {
    let lines = ["The first message of some", "The second message of some", "The third message of some"];
    let ran = chat(&["--context", "64"], &lines).ok();
    assert!(ran.stderr.contains("no longer fits the context of 64 tokens"), "{}", ran.stderr);
    let long = "too long ".repeat(40);
    let ran = chat(&["--context", "64"], &[&long]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("prompt and answer together may have 64"), "{}", ran.stderr);
}

#[test]
fn mistakes_end_a_conversation_that_nobody_can_mend() {
    for (lines, words) in [
        (["/nonsense"], "there is no command /nonsense"),
        (["/save"], "/save needs a file name"),
        (["/regenerate"], "no answer yet"),
        (["/save /no/such/folder/talk.json"], "cannot write /no/such/folder/talk.json"),
    ] {
        chat(&[], &lines).refused(&[words]);
    }
}
