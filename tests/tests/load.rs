//! Real input: Unicode's character table and a word list, loaded and read back key by key at the other node.

use crate::e2e;
use duramen_tests::harness::process::run_in;
use duramen_tests::harness::{Cluster, Plan};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const UNICODE: &str = "/usr/share/unicode/UnicodeData.txt";
const WORDS: &str = "/usr/share/dict/american-english-huge";

/// The file, or one of the same size and form made up here, with a word about it.
fn real_or_made_up(path: &str, package: &str, folder: &Path, make: fn() -> String) -> PathBuf {
    if Path::new(path).exists() {
        return PathBuf::from(path);
    }
    eprintln!("skipped: {path} is not here (Debian package {package}); a list of the same size is made up instead");
    let file = folder.join(Path::new(path).file_name().expect("a file's name"));
    std::fs::write(&file, make()).expect("a writable folder");
    file
}

fn made_up_table() -> String {
    (0..34_924u32).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "{number:04X};CHARACTER NUMBER {number};Lo;0;L;;;;;N;;;;;");
        text
    })
}

fn made_up_words() -> String {
    (0..344_000u32).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "wört{number:x}'s");
        text
    })
}

e2e! {
    /// Goal: `duramen load` takes real files, and every key is at the other node by the load's final token.
    /// Method: load at one serving node, then verify each key at the other one with the token that the load printed.
    async fn real_files_are_loaded_and_read_back_at_the_other_node(places: 2, seconds: 240) {
        let cluster = Cluster::start(Plan { proxied: false, ..Plan::default() }).await;
        let urls = cluster.urls();
        let folder = cluster.folder();
        let table = real_or_made_up(UNICODE, "unicode-data", &folder, made_up_table);
        let words = real_or_made_up(WORDS, "wamerican-huge", &folder, made_up_words);
        let shapes: [(&Path, &[&str]); 2] = [
            (&table, &["--format", "delimited", "--value", "rest"]),
            (&words, &["--format", "lines"]),
        ];
        for (file, shape) in shapes {
            let lines = std::fs::read(file).expect("a readable file").split(|&byte| byte == b'\n').count() - 1;
            let path = file.to_str().expect("a path in UTF-8");
            let load = [&["load", path, "--json", "--url", &urls[0]], shape].concat();
            let loaded = run_in(Some(&folder), &load, b"").await.expect_code(0);
            let report: Value = serde_json::from_str(&loaded.stdout).expect("a JSON report");
            assert_eq!(report["records"], lines, "{report}");
            let token = report["token"].as_str().expect("a token").to_owned();
            let verify = [&["verify", path, "--json", "--after", &token, "--url", &urls[1]], shape].concat();
            let verified = run_in(Some(&folder), &verify, b"").await.expect_code(0);
            let report: Value = serde_json::from_str(&verified.stdout).expect("a JSON report");
            assert_eq!((&report["records"], &report["mismatches"]), (&lines.into(), &0.into()), "{report}");
            eprintln!("{path}: {lines} records, {}", loaded.stdout.trim());
        }
        cluster.wait_same_digests().await;
    }
}
