//! Follows changes of keys with a prefix (the first argument), from now on, also over the death of nodes. Run
//! `duramen dev` first, and write something while this runs.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks to whoever runs it")]

use duramen_client::kv::{Client, ClientConfig, Error, WatchOptions};
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(ClientConfig::new(["http://127.0.0.1:7001", "http://127.0.0.1:7002"]))?;
    let prefix = std::env::args().nth(1).unwrap_or_default();
    let mut watch = client.watch(WatchOptions::prefix(prefix)).await?;
    println!("watching beyond {}", watch.position());
    loop {
        match watch.next().await {
            Ok(change) => {
                let key = String::from_utf8_lossy(&change.key);
                match &change.value {
                    Some(value) => println!("{} put {key} = {}", change.version, String::from_utf8_lossy(value)),
                    None => println!("{} delete {key}", change.version),
                }
            }
            // Nothing is lost: the watch goes on where it was.
            Err(error @ Error::Unavailable { .. }) => {
                eprintln!("{error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
