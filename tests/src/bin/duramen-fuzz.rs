//! Fuzz targets without libFuzzer: `duramen-fuzz TARGET FILE…` runs inputs again, `duramen-fuzz --seeds FOLDER` writes what libFuzzer
//! begins with: `FOLDER/TARGET/…`, and its words in `FOLDER/TARGET.dict`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests and their programs speak to whoever runs them")]

use duramen_tests::fuzz::{TARGETS, Target};
use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [flag, folder] if flag == "--seeds" => write_seeds(Path::new(folder)),
        [name, files @ ..] if !files.is_empty() && Target::named(name).is_some() => {
            Target::named(name).map_or(Ok(()), |target| run(target, files))
        }
        _ => {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("duramen-fuzz TARGET FILE…, or --seeds FOLDER; targets: {}", names.join(", "));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(target: &Target, files: &[String]) -> io::Result<()> {
    for file in files {
        (target.run)(&std::fs::read(file)?);
        println!("{file}: well");
    }
    Ok(())
}

fn write_seeds(folder: &Path) -> io::Result<()> {
    for target in TARGETS {
        let seeds = folder.join(target.name);
        std::fs::create_dir_all(&seeds)?;
        for (number, input) in target.inputs(0).enumerate() {
            std::fs::write(seeds.join(format!("seed-{number}")), input)?;
        }
        let words: String = target.words.iter().map(|word| dictionary_line(word)).collect();
        std::fs::write(folder.join(format!("{}.dict", target.name)), words)?;
    }
    Ok(())
}

/// A word as libFuzzer's dictionaries have it.
fn dictionary_line(word: &str) -> String {
    let escaped: String = word.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("\"{escaped}\"\n")
}
