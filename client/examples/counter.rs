//! A counter that many increment at once, from both nodes, by compare-and-set: the sum is exact. Run `duramen dev` first.

#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use duramen_client::kv::{Client, ClientConfig, Condition, Error, WriteOptions};

const TASKS: usize = 8;
const INCREMENTS: u64 = 25;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(ClientConfig::new(["http://127.0.0.1:7001", "http://127.0.0.1:7002"]))?;
    let before = read(&client).await?;
    let tasks: Vec<_> = (0..TASKS).map(|number| tokio::spawn(increments(client.starting_at(number % 2)))).collect();
    for task in tasks {
        task.await??;
    }
    let after = read(&client).await?;
    println!("{before} + {TASKS} × {INCREMENTS} = {after}");
    assert_eq!(after, before + TASKS as u64 * INCREMENTS);
    Ok(())
}

async fn read(client: &Client) -> Result<u64, Box<dyn std::error::Error>> {
    let got = client.get("counter").await?;
    Ok(got.value().map_or(Ok(0), |value| std::str::from_utf8(value).unwrap_or("0").parse())?)
}

async fn increments(client: Client) -> Result<(), Error> {
    for _ in 0..INCREMENTS {
        increment(&client).await?;
    }
    Ok(())
}

/// One increment: read, then write if nobody else did in between; again under a new key after a certain mismatch. What is
/// unknown is repeated as it was, under the same key and condition, so that it counts once.
async fn increment(client: &Client) -> Result<(), Error> {
    loop {
        let got = client.get("counter").await?;
        let number = got.value().and_then(|value| std::str::from_utf8(value).ok()?.parse::<u64>().ok()).unwrap_or(0);
        let value = (number + 1).to_string();
        let mut options = WriteOptions::when(got.version().map_or(Condition::Absent, Condition::Version));
        loop {
            match client.put_with("counter", value.clone(), &options).await {
                Ok(_) => return Ok(()),
                Err(Error::VersionMismatch { .. }) => break,
                Err(Error::OutcomeUnknown(unknown)) => options.idempotency_key = Some(unknown.idempotency_key),
                Err(error) => return Err(error),
            }
        }
    }
}
