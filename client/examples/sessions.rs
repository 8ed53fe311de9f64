//! A session carried from one request to the next as a string, as a web server would in a cookie. Run `duramen dev`
//! first; with `duramen dev --lag-ms 500` the second node takes half a second to get there, and the session waits.

#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use duramen_client::kv::{Client, ClientConfig, ReadOptions, Session};
use tokio::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(ClientConfig::new(["http://127.0.0.1:7001", "http://127.0.0.1:7002"]))?;

    // The first request writes, and hands out what it has seen.
    let first = Session::new(client.clone());
    for number in 0..10 {
        first.put("visits", number.to_string()).await?;
    }
    let cookie = first.export();
    println!("cookie: {cookie}");

    // Without it, the second node answers what it has.
    let lagging = client.starting_at(1);
    let stale = lagging.get_with("visits", &ReadOptions::stale()).await?;
    println!("stale read at the second node: {:?}", stale.value());

    // With it, the second node waits until it has got there.
    let begun = Instant::now();
    let second = Session::import(lagging, &cookie)?;
    let visits = second.get("visits").await?;
    println!("session read at the second node: {:?} after {:?}", visits.value(), begun.elapsed());
    assert_eq!(visits.value().map(|value| &value[..]), Some(&b"9"[..]));
    Ok(())
}
