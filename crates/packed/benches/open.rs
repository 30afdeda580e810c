//! How fast a packed file opens, beside what the machine reads in the same minute.
//!
//! `cargo bench -p fathom-packed --bench open -- [GB] [DIRECTORY] [THREADS]`; 2, the system's scratch directory and 2
//! unless said otherwise. Medians of seven rounds, each of which measures everything once. A copy of the
//! file that was written in pieces of 4 KiB shows what small pages cost.

use fathom_packed::{Key, Limits, Outcome, Packed, Source, Writer};
use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let gigabytes: f64 = arguments.first().map_or(Ok(2.0), |text| text.parse())?;
    let directory = arguments.get(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let threads: NonZero<usize> = arguments.get(2).map_or("2", |text| text).parse()?;
    let names = ["fathom-bench-source", "fathom-bench.packed", "fathom-bench-small.packed"];
    let paths = names.map(|name| directory.join(name));
    let result = run((gigabytes * 1e9) as usize, &paths, threads);
    for path in &paths {
        let _ = fs::remove_file(path);
    }
    result
}

fn run(
    bytes: usize,
    [source, path, small]: &[PathBuf; 3],
    threads: NonZero<usize>,
) -> Result<(), Box<dyn Error>> {
    let tensor: Vec<u8> =
        (0..64 << 17).flat_map(|i: u64| i.wrapping_mul(0x9E37_79B1_85EB_CA87).to_le_bytes()).collect();
    fs::write(source, &tensor)?;
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let key = || -> Result<Key, fathom_packed::Error> {
        let source = Source::of(&[source.to_owned()])?;
        Ok(Key { source, layout: "bench".to_owned(), options: "bench".to_owned() })
    };
    let start = Instant::now();
    let mut writer =
        Writer::create(path, &key()?, Limits { planned_bytes: bytes as u64, ..Limits::default() })?;
    for i in 0..bytes / tensor.len() {
        writer.append(&i.to_string(), &(), &tensor)?;
    }
    let appended = start.elapsed().as_secs_f64();
    writer.finish(threads)?;
    let length = fs::metadata(path)?.len() as f64;
    let all = start.elapsed().as_secs_f64();
    println!("file of {:.2} GB, {threads} threads", length / 1e9);
    println!("append {:6.2} GB/s, with the disk {:6.2} GB/s", length / appended / 1e9, length / all / 1e9);

    let (mut whole, mut pieces) = (File::open(path)?, File::create(small)?);
    let mut buffer = vec![0; 4 << 10];
    loop {
        match whole.read(&mut buffer)? {
            0 => break,
            read => pieces.write_all(&buffer[..read])?,
        }
    }
    pieces.sync_all()?;

    let open = |path: &Path| -> Result<Packed, Box<dyn Error>> {
        match Packed::open(path, &key()?, threads) {
            Outcome::Ready(packed) => Ok(packed),
            Outcome::Rebuild(reason) => Err(reason.into()),
        }
    };
    let mut warm = [(); 3].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let packed = open(path)?;
        warm[0].push(length / start.elapsed().as_secs_f64() / 1e9);
        let start = Instant::now();
        black_box(sum(packed.mapping().as_ref().as_ref(), threads));
        warm[1].push(length / start.elapsed().as_secs_f64() / 1e9);
        let start = Instant::now();
        open(small)?;
        warm[2].push(length / start.elapsed().as_secs_f64() / 1e9);
    }
    println!("open, warm      {}", spread(&mut warm[0]));
    println!("sum of mapping  {}", spread(&mut warm[1]));
    println!("small pages     {}", spread(&mut warm[2]));

    let mut cold = [(); 2].map(|()| Vec::new());
    for _ in 0..3 {
        if !forget(path) {
            println!("cold: there is no way to drop this file from the page cache here");
            return Ok(());
        }
        let start = Instant::now();
        open(path)?;
        cold[0].push(length / start.elapsed().as_secs_f64() / 1e9);
        forget(path);
        let start = Instant::now();
        let (mut file, mut buffer) = (File::open(path)?, vec![0; 4 << 20]);
        while file.read(&mut buffer)? > 0 {}
        cold[1].push(length / start.elapsed().as_secs_f64() / 1e9);
    }
    println!("open, cold      {}", spread(&mut cold[0]));
    println!("read in order   {}", spread(&mut cold[1]));
    Ok(())
}

/// The sum of all words: what reading costs without any checksum.
fn sum(bytes: &[u8], threads: NonZero<usize>) -> u64 {
    std::thread::scope(|scope| {
        let parts = bytes.chunks(bytes.len().div_ceil(threads.get()));
        let sums: Vec<_> = parts.map(|part| scope.spawn(|| sum_of(part))).collect();
        sums.into_iter().fold(0, |sum, part| sum ^ part.join().unwrap_or(0))
    })
}

fn sum_of(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 16];
    for line in bytes.as_chunks::<128>().0 {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |sum, word| sum ^ word)
}

/// Drops a file from the page cache, with the tool that every Linux has.
fn forget(path: &Path) -> bool {
    let file = format!("of={}", path.display());
    let arguments = [file.as_str(), "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"];
    Command::new("dd").args(arguments).status().is_ok_and(|status| status.success())
}

fn spread(rates: &mut [f64]) -> String {
    rates.sort_by(f64::total_cmp);
    let (least, most) = (rates[0], rates[rates.len() - 1]);
    format!("median {:6.2} GB/s, {least:.2} to {most:.2}", rates[rates.len() / 2])
}
