//! Running the binary, and folders to run it on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fathom_checkpoint::Checkpoint;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const FIXTURES: [&str; 5] = ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-fp8", "tiny-v3-mtp"];

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// `fathom COMMAND --model DIR`, to which arguments are added.
pub(crate) fn command(name: &str, model: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom"));
    command.arg(name).arg("--model").arg(model).env_remove("FATHOM_LOG").env("NO_COLOR", "1");
    command
}

/// What came out.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn from(output: Output) -> Self {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let ran = self.ok();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    /// Exit code 1, nothing on stdout, and one line on stderr that begins with `error:` and has all the words.
    #[track_caller]
    pub(crate) fn refused(self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("error: ") && !self.stderr.contains("panicked"), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing in {}", self.stderr);
        }
    }
}

/// Runs with arguments and nothing on stdin.
pub(crate) fn run(name: &str, model: &Path, args: &[&str]) -> Ran {
    Ran::from(command(name, model).args(args).stdin(Stdio::null()).output().expect("the binary starts"))
}

/// Runs with arguments and `input` piped in.
pub(crate) fn run_with(name: &str, model: &Path, args: &[&str], input: &[u8]) -> Ran {
    let mut child = command(name, model)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // It may end before it has read everything.
    let _ = child.stdin.take().expect("piped").write_all(input);
    Ran::from(child.wait_with_output().expect("it ends"))
}

/// A fixture's reference outputs.
pub(crate) struct Golden(pub(crate) Checkpoint);

impl Golden {
    pub(crate) fn open(fixture_name: &str) -> Self {
        Golden(Checkpoint::open(&fixture(fixture_name).join("golden.safetensors")).expect("it is there"))
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.0.tensor(name).expect("named in the README").to_i64().expect("integers");
        ids.into_iter().map(|id| id as u32).collect()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.0.tensor(name).expect("named in the README").to_f32().expect("floats")
    }

    pub(crate) fn sequences(&self) -> Vec<Vec<u32>> {
        (0..)
            .map(|i| format!("seq{i}.input_ids"))
            .map_while(|name| self.0.contains(&name).then(|| self.ids(&name)))
            .collect()
    }
}

/// A folder for one test, with a copy of a fixture's model in it.
pub(crate) struct Copy {
    root: TempDir,
}

impl Copy {
    pub(crate) fn of(fixture_name: &str) -> Self {
        let root = TempDir::new().expect("a folder");
        let model = root.path().join("model");
        std::fs::create_dir(&model).expect("a folder");
        for entry in std::fs::read_dir(fixture(fixture_name)).expect("the fixture") {
            let entry = entry.expect("an entry");
            if !entry.file_name().to_string_lossy().contains("golden") {
                std::fs::copy(entry.path(), model.join(entry.file_name())).expect("copied");
            }
        }
        Copy { root }
    }

    pub(crate) fn model(&self) -> PathBuf {
        self.root.path().join("model")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.model().join(name)
    }

    /// Changes a JSON file of the model.
    pub(crate) fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&std::fs::read(self.file(name)).unwrap()).unwrap();
        edit(&mut value);
        std::fs::write(self.file(name), value.to_string()).unwrap();
    }

    /// Changes header and data of `model.safetensors`.
    pub(crate) fn edit_weights(&self, edit: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let file = self.file("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = serde_json::from_slice(&bytes[8..data]).unwrap();
        let mut values = bytes[data..].to_vec();
        edit(&mut header, &mut values);
        let header = header.to_string();
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(&file, [&length[..], header.as_bytes(), &values].concat()).unwrap();
    }
}

/// A scratch file with this content; it lives as long as the folder returned with it.
pub(crate) fn scratch(name: &str, content: &str) -> (TempDir, String) {
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join(name);
    std::fs::write(&file, content).expect("written");
    let path = file.to_str().expect("a path in UTF-8").to_owned();
    (dir, path)
}
