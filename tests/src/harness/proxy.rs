//! A TCP proxy in front of a node, whose links can be cut and healed: a network for tests without privileges.
//!
//! * A caller is told apart by its process: the peer's port is looked up in `/proc/net/tcp`, its inode in
//!   `/proc/PID/fd`. So one advertised address is enough, and each pair of parties is a link of its own.
//! * A cut link is a black hole: bytes are not forwarded and connections not answered, as if packets were lost; what was
//!   under way goes on when the link heals. `sever` closes the connections instead.
//! * Bound: what is held back stays in the kernel's socket buffers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A party: a node's name, or `tests` for everybody else.
pub type Party = String;

const TESTS: &str = "tests";

/// How often the owner of a socket is looked for, and how long in between.
const LOOKUPS_MAX: u32 = 200;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Which links are cut. Shared by all proxies of a cluster.
#[derive(Clone)]
pub struct Network {
    state: watch::Sender<Arc<State>>,
    parties: Arc<Mutex<HashMap<u32, Party>>>,
}

#[derive(Clone, Default)]
struct State {
    cut: Vec<(Party, Party)>,
    /// Counted up to close every connection of a link.
    severed: HashMap<(Party, Party), u64>,
}

impl State {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cut.iter().any(|(a, b)| (a == from && b == to) || (a == to && b == from))
    }
}

impl Default for Network {
    fn default() -> Network {
        Network { state: watch::channel(Arc::default()).0, parties: Arc::default() }
    }
}

impl Network {
    /// Says which process is which party.
    pub fn set_party(&self, pid: u32, party: &str) {
        self.parties.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, party.to_owned());
    }

    /// Cuts the links between `one` and each of `others`, both ways.
    pub fn cut(&self, one: &str, others: &[&str]) {
        self.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.cut.extend(others.iter().map(|other| (one.to_owned(), (*other).to_owned())));
        });
    }

    /// Closes the connections from `from` to `to`; new ones are not hindered.
    pub fn sever(&self, from: &str, to: &str) {
        self.state.send_modify(|state| {
            *Arc::make_mut(state).severed.entry((from.to_owned(), to.to_owned())).or_default() += 1;
        });
    }

    /// Heals every link.
    pub fn heal(&self) {
        self.state.send_modify(|state| Arc::make_mut(state).cut.clear());
    }

    /// Who is at the other end of a connection to `at`. Looked up again while nobody has it: the kernel's table is read piece by
    /// piece and may miss a socket while others come and go, and a process may connect before it is known as a party.
    async fn party_of(&self, peer: SocketAddr, at: SocketAddr) -> Party {
        for _ in 0..LOOKUPS_MAX {
            if let Some(party) = self.look_up(peer, at) {
                return party;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        TESTS.to_owned()
    }

    fn look_up(&self, peer: SocketAddr, at: SocketAddr) -> Option<Party> {
        let wanted = format!("socket:[{}]", inode_of(peer, at)?);
        let parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let owner = parties.into_iter().find(|(pid, _)| has_file(*pid, &wanted)).map(|(_, party)| party);
        owner.or_else(|| has_file(std::process::id(), &wanted).then(|| TESTS.to_owned()))
    }
}

/// The inode of the loopback socket that is bound to `local` and connected to `remote`, in /proc/net/tcp's notation. A port
/// can be there twice: closed connections stay for a while, without an inode.
fn inode_of(local: SocketAddr, remote: SocketAddr) -> Option<String> {
    let notation = |addr: SocketAddr| match addr {
        SocketAddr::V4(addr) => Some(format!("{:08X}:{:04X}", u32::from_le_bytes(addr.ip().octets()), addr.port())),
        SocketAddr::V6(_) => None,
    };
    let (local, remote) = (notation(local)?, notation(remote)?);
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.get(1) == Some(&local.as_str()) && row.get(2) == Some(&remote.as_str()))?;
    row.get(9).filter(|&&inode| inode != "0").map(|&inode| inode.to_owned())
}

fn has_file(pid: u32, wanted: &str) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == Path::new(wanted)))
}

/// One node's proxy. Ends with this value.
pub struct Proxy {
    /// Where it listens: the address that the node advertises.
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens at `addr` and forwards to `target`, which is where party `to` really listens.
    pub async fn start(network: &Network, to: &str, addr: SocketAddr, target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(addr).await.unwrap_or_else(|error| panic!("proxy at {addr}: {error}"));
        let network = network.clone();
        let to = to.to_owned();
        let task = tokio::spawn(async move {
            let mut links = tokio::task::JoinSet::new();
            while let Ok((stream, peer)) = listener.accept().await {
                let (network, to) = (network.clone(), to.clone());
                links.spawn(async move {
                    let from = network.party_of(peer, addr).await;
                    link(network, from, to, stream, target).await;
                });
                while links.try_join_next().is_some() {}
            }
        });
        Proxy { addr, task }
    }
}

async fn link(network: Network, from: Party, to: Party, inside: TcpStream, target: SocketAddr) {
    let mut state = network.state.subscribe();
    let severed = |state: &State| state.severed.get(&(from.clone(), to.clone())).copied().unwrap_or(0);
    let at_start = severed(&state.borrow());
    if state.wait_for(|state| !state.is_cut(&from, &to)).await.is_err() {
        return;
    }
    let Ok(outside) = TcpStream::connect(target).await else { return };
    let _ = (inside.set_nodelay(true), outside.set_nodelay(true));
    let (inside_read, inside_write) = inside.into_split();
    let (outside_read, outside_write) = outside.into_split();
    let forth = forward(network.state.subscribe(), (&from, &to), inside_read, outside_write);
    let back = forward(network.state.subscribe(), (&from, &to), outside_read, inside_write);
    tokio::select! {
        _ = async { tokio::join!(forth, back) } => {}
        _ = state.wait_for(|state| severed(state) != at_start) => {}
    }
}

async fn forward(
    mut state: watch::Receiver<Arc<State>>,
    (from, to): (&str, &str),
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
) {
    let mut buffer = vec![0u8; 64 * 1024];
    while let Ok(count @ 1..) = read.read(&mut buffer).await {
        // Held back while the link is cut.
        if state.wait_for(|state| !state.is_cut(from, to)).await.is_err() {
            break;
        }
        if write.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // A closed end closes the other one, but only over a link that is not cut.
    let _ = state.wait_for(|state| !state.is_cut(from, to)).await;
    let _ = write.shutdown().await;
}
