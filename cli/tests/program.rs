//! The program from outside: help, usage errors, configuration, failures in one line. No cluster runs here; the tests
//! room has those.

use std::process::{Command, Output, Stdio};

fn duramen(args: &[&str]) -> Output {
    command(args).output().expect("the binary runs")
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duramen"));
    command.args(args).env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DURAMEN_") {
            command.env_remove(name);
        }
    }
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is text")
}

/// Code 1 or 2, nothing on stdout, one line on stderr that holds all of `wanted`.
#[track_caller]
fn fails_in_one_line(output: &Output, code: i32, wanted: &[&str]) {
    let told = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(told.lines().count(), 1, "{told}");
    for part in wanted {
        assert!(told.contains(part), "{part:?} is not in {told:?}");
    }
}

#[test]
fn help_names_every_command() {
    let output = duramen(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for name in [
        "dev",
        "log-node",
        "serving-node",
        "put",
        "get",
        "delete",
        "scan",
        "watch",
        "log",
        "status",
        "load",
        "verify",
        "bench",
    ] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{name} "))),
            "{name} is not in\n{help}"
        );
        let output = duramen(&[name, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{name} --help");
    }
    assert_eq!(duramen(&["--version"]).status.code(), Some(0));
}

#[test]
fn a_wrong_command_line_ends_with_code_2() {
    for args in [
        &[] as &[&str],
        &["no-such-command"],
        &["put"],
        &["get", "k", "--after", "not-a-token"],
        &["get", "k", "--wait", "0"],
        &["get", "%zz", "--key-form", "percent"],
        &["put", "k", "v", "--if-absent", "--if-match", "*"],
        &["put", "k", "v", "--if-match", "3:1042"],
        &["get", "k", "--url", "ftp://x"],
        &["log", "tail", "meta"],
        &["load", "words"],
        &["load", "a.csv", "--delimiter", ";;"],
        &["dev", "--partitions", "0"],
        &["dev", "--index", "postgres"],
        &["status", "--log", "=?="],
    ] {
        let output = duramen(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_node_without_its_settings_says_which_one_is_missing() {
    fails_in_one_line(&duramen(&["log-node"]), 2, &["node is not set", "--node", "DURAMEN_NODE"]);
    fails_in_one_line(&duramen(&["serving-node"]), 2, &["name is not set", "--name", "DURAMEN_NAME"]);
}

/// Goal: flag > variable > file. Method: each names a value that is refused, by a different text.
#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    let text = "name = 'from file'\nhttp = '127.0.0.1:1'\nlog-nodes = ['127.0.0.1:1']\nindex = 'memory'\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    fails_in_one_line(&duramen(&["serving-node", "--config", file]), 2, &["from file"]);
    let by_variable =
        command(&["serving-node", "--config", file]).env("DURAMEN_NAME", "from variable").output().unwrap();
    fails_in_one_line(&by_variable, 2, &["from variable"]);
    let by_flag = command(&["serving-node", "--config", file, "--name", "from flag"])
        .env("DURAMEN_NAME", "from variable")
        .output()
        .unwrap();
    fails_in_one_line(&by_flag, 2, &["from flag"]);
}

#[test]
fn an_unknown_key_in_a_file_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    std::fs::write(&file, "node = 1\n# a comment\nflush-at-once = true\n").unwrap();
    let output = duramen(&["log-node", "--config", file.to_str().unwrap()]);
    fails_in_one_line(&output, 2, &["flush-at-once", "line 3"]);
    let missing = folder.path().join("missing.toml");
    fails_in_one_line(&duramen(&["log-node", "--config", missing.to_str().unwrap()]), 2, &["missing.toml"]);
}

/// Goal: the examples that the README tells people to use are complete and right. Method: each is read, and what is refused
/// then is only the data folder that the test puts under a file.
#[test]
fn the_example_files_are_taken() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let blocked = blocked.join("inside");
    for (role, names) in [
        ("log-node", &["log-1.toml", "log-2.toml", "log-3.toml"] as &[&str]),
        ("serving-node", &["serving-1.toml", "serving-2.toml"]),
    ] {
        for name in names {
            let file = examples.join(name);
            let output = duramen(&[role, "--config", file.to_str().unwrap(), "--data-dir", blocked.to_str().unwrap()]);
            fails_in_one_line(&output, 1, &["cannot use", "--data-dir"]);
        }
    }
}

#[test]
fn a_folder_that_cannot_be_written_ends_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = duramen(&["dev", "--data-dir", file.join("inside").to_str().unwrap()]);
    fails_in_one_line(&output, 1, &["cannot use", "--data-dir"]);
}

#[test]
fn a_taken_port_ends_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // A first port is at most 65533; the listener may hold the second.
    let first = port.min(65_533).to_string();
    let data_dir = folder.path().join("data");
    let output = duramen(&["dev", "--data-dir", data_dir.to_str().unwrap(), "--http-port", &first]);
    fails_in_one_line(&output, 1, &[&port.to_string(), "is taken", "--http-port"]);
}

/// Goal: commands against nobody fail soon, in one line, with the code that says that nothing happened.
#[test]
fn commands_against_nobody_end_with_code_1() {
    // Bound for the whole test, and never listening: whoever connects is refused, and nobody else gets the port.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    let url = url.as_str();
    for args in [
        &["get", "k", "--wait", "0.2", "--url", url] as &[&str],
        &["put", "k", "v", "--wait", "0.2", "--url", url],
        &["scan", "--wait", "0.2", "--url", url],
        &["log", "tail", "0", "--log-url", url],
        &["log", "append", "0", "event", "--log-url", url],
    ] {
        fails_in_one_line(&duramen(args), 1, &[url.trim_start_matches("http://")]);
    }
}

/// Goal: what is wrong in a file is told with its line and column, before anything is sent, and leaves nothing behind.
#[test]
fn a_file_that_is_not_what_it_should_be_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.csv");
    std::fs::write(&file, "a,1\nb\n").unwrap();
    let output = command(&["load", file.to_str().unwrap(), "--retry-ms", "1", "--url", "http://127.0.0.1:1"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    fails_in_one_line(&output, 1, &["bad.csv: line 2, column 2"]);
    assert!(!stderr(&output).contains("--resume"), "going on would meet the same line");
    assert!(!folder.path().join("bad.csv.duramen-load").exists());
}

/// Goal: standard input is read as a file is, and what it cannot do is refused. Method: a wrong line is found in it.
#[test]
fn standard_input_is_read_and_what_it_cannot_do_is_refused() {
    use std::io::Write as _;
    let mut child = command(&["load", "-", "--format", "csv", "--retry-ms", "1", "--url", "http://127.0.0.1:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a,1\nb,2\rc,3\n").unwrap();
    fails_in_one_line(&child.wait_with_output().unwrap(), 1, &["standard input: line 2, column 4", "carriage return"]);
    for option in [&["--resume"] as &[&str], &["--state", "x"], &["--verify", "http://127.0.0.1:1"]] {
        let output = duramen(&[&["load", "-", "--format", "csv"], option].concat());
        fails_in_one_line(&output, 2, &[option[0], "standard input"]);
    }
    fails_in_one_line(&duramen(&["verify", "-", "--format", "csv"]), 2, &["standard input"]);
}

/// Goal: a variable that nothing reads is refused by every command, with what may have been meant.
#[test]
fn a_misspelt_variable_is_refused_by_name() {
    for args in [&["get", "k"] as &[&str], &["dev"], &["log-node"], &["load", "a.csv"]] {
        let output = command(args).env("DURAMEN_DATADIR", "/data").output().unwrap();
        fails_in_one_line(&output, 2, &["DURAMEN_DATADIR", "DURAMEN_DATA_DIR"]);
    }
}

/// Goal: no setting of the log silences the program by mistake. Method: an empty one still warns, a misspelt level is refused.
#[test]
fn an_empty_filter_means_the_default_and_a_misspelt_one_is_refused() {
    let output = command(&["status", "--wait-ms", "1"]).env("DURAMEN_LOG", "inf").output().unwrap();
    fails_in_one_line(&output, 2, &["DURAMEN_LOG", "\"inf\"", "level"]);
    let output = command(&["status"]).env("DURAMEN_LOG", "").env("RUST_LOG", "verbose").output().unwrap();
    fails_in_one_line(&output, 2, &["RUST_LOG", "\"verbose\""]);
}

/// Goal: an answer that cannot be written is a failure, one that nobody wants is not.
#[test]
fn help_that_cannot_be_written_is_a_failure_unless_the_reader_has_gone() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(command(&["--help"]).stdout(full).status().unwrap().code(), Some(1));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(command(&["--help"]).stdout(writer).status().unwrap().code(), Some(0));
}

/// Goal: a failure that nobody reads ends soon, with its code. Method: stderr is a full pipe, a pipe without a reader, a full
/// disk.
#[test]
fn a_failure_that_nobody_reads_has_its_code_all_the_same() {
    use std::io::Write as _;
    let (_reader, mut stuck) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&stuck, true).unwrap();
    while stuck.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&stuck, false).unwrap();
    let (reader, gone) = std::io::pipe().unwrap();
    drop(reader);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for stderr in [Stdio::from(stuck), Stdio::from(gone), Stdio::from(full)] {
        assert_eq!(command(&["log-node"]).stderr(stderr).status().unwrap().code(), Some(2));
    }
}
