//! TensorBoard's event files: the same scalars where many look first.
//!
//! A file is a TFRecord stream of `Event` messages (tensorflow/core/util/event.proto); of those we
//! need a handful of fields, encoded here by hand.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::{Error, Result};
use super::record::{Record, Step, Validation};

/// An event file that is open for more scalars.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
    moe_layers: Vec<usize>,
}

impl TensorBoard {
    /// Begins an event file in `dir`. After a resumption, `resumed_from` tells TensorBoard to forget
    /// what older files say about later steps.
    pub fn create(dir: &Path, now: SystemTime, resumed_from: Option<u64>) -> Result<Self> {
        let (path, file) = new_file(dir, now)?;
        let mut board = Self { path, file, moe_layers: Vec::new() };
        let mut bytes = framed(&file_version(now));
        if let Some(step) = resumed_from {
            // Purged is what has this step or a later one; the checkpoint's own step stays.
            bytes.extend(framed(&session_start(now, step + 1)));
        }
        board.write(&bytes)?;
        Ok(board)
    }

    /// Writes the scalars of `record`, if it has any.
    pub fn record(&mut self, record: &Record, now: SystemTime) -> Result<()> {
        let scalars = match record {
            Record::Run(run) => {
                self.moe_layers.clone_from(&run.moe_layers);
                return Ok(());
            }
            Record::Step(step) => step_scalars(step, &self.moe_layers),
            Record::Validation(validation) => validation_scalars(validation),
            Record::Sample(_) | Record::Checkpoint(_) | Record::Resume(_) | Record::Skip(_) => return Ok(()),
        };
        self.write(&framed(&summary(now, record.step(), &scalars)))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }
}

/// TensorBoard reads files with `tfevents` in their names, in the order of those names.
fn new_file(dir: &Path, now: SystemTime) -> Result<(PathBuf, File)> {
    let seconds = seconds(now) as u64;
    let mut attempt = 0;
    loop {
        let path = dir.join(format!("events.out.tfevents.{seconds:010}.fathom.{attempt}"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            // Resumed within a second.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => attempt += 1,
            Err(error) => return Err(Error::io(&path, "create")(error)),
        }
    }
}

fn step_scalars(step: &Step, moe_layers: &[usize]) -> Vec<(String, f64)> {
    let always = [
        ("loss/training", Some(step.loss)),
        ("loss/mtp", step.mtp_loss),
        ("loss/balance", step.balance_loss),
        ("optimizer/lr", Some(step.lr)),
        ("optimizer/grad_norm", Some(step.grad_norm)),
        ("speed/tokens_per_second", Some(step.tokens_per_second)),
        ("speed/mfu", step.mfu),
        ("speed/memory_bytes", Some(step.memory_bytes as f64)),
        ("progress/tokens", Some(step.tokens as f64)),
    ];
    let always = always.into_iter().filter_map(|(tag, value)| Some((tag.to_owned(), value?)));
    let violations = step.max_violation.iter().enumerate().map(|(index, &value)| {
        let layer = moe_layers.get(index).copied().unwrap_or(index);
        (format!("max_violation/layer_{layer}"), value)
    });
    always.chain(violations).collect()
}

fn validation_scalars(validation: &Validation) -> Vec<(String, f64)> {
    let mut scalars = vec![("loss/validation".to_owned(), validation.loss)];
    scalars.extend(validation.bits_per_byte.map(|value| ("loss/bits_per_byte".to_owned(), value)));
    scalars
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

// The messages. Field numbers: event.proto and summary.proto.

/// `Event { wall_time: 1, file_version: 3 }`, the first of every file.
fn file_version(now: SystemTime) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, seconds(now));
    event.bytes(3, b"brain.Event:2");
    event.0
}

/// `Event { wall_time: 1, step: 2, session_log: 7 { status: 1 = START } }`.
fn session_start(now: SystemTime, step: u64) -> Vec<u8> {
    let mut log = Message::default();
    log.varint(1, 1);
    let mut event = Message::default();
    event.double(1, seconds(now));
    event.varint(2, step);
    event.bytes(7, &log.0);
    event.0
}

/// `Event { wall_time: 1, step: 2, summary: 5 { value: 1 { tag: 1, simple_value: 2 } … } }`.
fn summary(now: SystemTime, step: u64, scalars: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Message::default();
    for (tag, scalar) in scalars {
        let mut value = Message::default();
        value.bytes(1, tag.as_bytes());
        value.float(2, *scalar as f32);
        summary.bytes(1, &value.0);
    }
    let mut event = Message::default();
    event.double(1, seconds(now));
    event.varint(2, step);
    event.bytes(5, &summary.0);
    event.0
}

/// A protobuf message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, field: u8, value: u64) {
        self.0.push(field << 3);
        self.push_varint(value);
    }

    fn double(&mut self, field: u8, value: f64) {
        self.0.push(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u8, value: &[u8]) {
        self.0.push(field << 3 | 2);
        self.push_varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u8, value: f32) {
        self.0.push(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// TFRecord: length, its checksum, the message, its checksum.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc32c(&length).to_le_bytes());
    record.extend(message);
    record.extend(masked_crc32c(message).to_le_bytes());
    record
}

/// A checksum over bytes that contain checksums is weak, so TFRecord turns and shifts them.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::metrics::Run;

    fn noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_700_000_000_500)
    }

    #[test]
    fn the_checksum_is_that_of_the_standard_masked() {
        // RFC 3720, B.4: CRC-32C of 32 zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // Turned right by 15 bits, that is 0x6d55_1522; plus 0xa282_ead8.
        assert_eq!(masked_crc32c(&[0; 32]), 0x0fd7_fffa);
    }

    /// TensorBoard's own writer gives the same bytes (made with 2.21).
    #[test]
    fn a_file_is_byte_for_byte_what_tensorboard_writes() {
        let bytes = [
            framed(&file_version(noon())),
            framed(&session_start(noon(), 301)),
            framed(&summary(noon(), 300, &[("loss/training".into(), 2.5), ("nan".into(), f64::NAN)])),
        ]
        .concat();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, EXPECTED);
    }

    const EXPECTED: &str = "1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b3531101000000000000000\
        95fbfe180900002040fc54d94110ad023a020801596f3f79300000000000000095f5d05f0900002040fc54d94110ac02\
        2a220a140a0d6c6f73732f747261696e696e6715000020400a0a0a036e616e150000c07f7be51263";

    #[test]
    fn scalars_are_named_by_layer_and_a_resumption_within_the_second_gets_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(dir.path(), noon(), None).unwrap();
        board
            .record(&Record::Run(Box::new(Run { moe_layers: vec![3, 5], ..Run::default() })), noon())
            .unwrap();
        let step = Step { step: 300, max_violation: vec![0.5, 0.25], ..Step::default() };
        board.record(&Record::Step(Box::new(step)), noon()).unwrap();
        TensorBoard::create(dir.path(), noon(), Some(300)).unwrap();

        let first = fs::read(dir.path().join("events.out.tfevents.1700000000.fathom.0")).unwrap();
        let second = fs::read(dir.path().join("events.out.tfevents.1700000000.fathom.1")).unwrap();
        let holds = |tag: &str| first.windows(tag.len()).any(|window| window == tag.as_bytes());
        assert!(holds("max_violation/layer_3") && holds("max_violation/layer_5") && !holds("layer_0"));
        assert_eq!(second, [framed(&file_version(noon())), framed(&session_start(noon(), 301))].concat());
    }
}
