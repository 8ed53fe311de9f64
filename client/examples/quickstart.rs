//! Put at one node, read at the other, never older. Run `duramen dev` first.

#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use duramen_client::kv::{Client, ClientConfig, Session};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let one = Client::new(ClientConfig::new(["http://127.0.0.1:7001", "http://127.0.0.1:7002"]))?;
    let other = one.starting_at(1);
    let session = Session::new(one);
    let written = session.put("microsoft", "Satya Nadella").await?;
    println!("written at {}", written.version);
    let got = session.over(other).get("microsoft").await?;
    println!("read at the other node: {:?} (the session has seen {})", got.value(), session.export());
    Ok(())
}
