//! The client against scripted servers: what it sends, when it asks again, what it concludes.

mod calls;
mod feeds;
mod server;
