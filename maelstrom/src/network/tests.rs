//! Goal: the network keeps the transport's promises although Maelstrom's does not: what was handled is never said to be
//! certainly not, nobody gets another's answer. Method: two nodes whose lines the test carries, or does not.

use super::*;
use duramen_common::StoreId;
use duramen_common::seams::SystemEntropy;
use duramen_transport::{HelloRefusal, Role};
use tokio::sync::mpsc;

const TIMEOUT: Duration = Duration::from_secs(2);

struct Echo {
    node: u64,
    history: Option<HistoryId>,
}

impl Service for Echo {
    fn greet(&self, hello: &Hello) -> Result<Welcome, HelloRefusal> {
        match &hello.role {
            Role::Client { name } if name == "stranger" => {
                Err(HelloRefusal { reason: "strangers stay out".to_owned() })
            }
            _ => Ok(Welcome {
                node: NodeId::new(self.node),
                store: StoreId::from_bits(self.node.into()),
                history: self.history,
            }),
        }
    }

    fn handle(&self, _: &Hello, service: u8, body: Bytes) -> BoxFuture<'static, Bytes> {
        Box::pin(async move {
            if service == 9 {
                std::future::pending::<()>().await;
            }
            body
        })
    }
}

/// A node, and the lines that it sends.
struct Node {
    network: Network,
    lines: mpsc::Receiver<Bytes>,
}

fn node(name: &str) -> Node {
    let (out, lines) = Outbox::unwritten();
    Node { network: Network::new(name, out, &SystemEntropy), lines }
}

fn open(node: &Node, number: u64, history: Option<HistoryId>) -> Box<dyn Server> {
    Box::new(node.network.clone()).serve(Arc::new(Echo { node: number, history }))
}

fn caller(node: &Node, name: &str, history: Option<HistoryId>) -> Arc<dyn Transport> {
    let name = name.to_owned();
    node.network.transport(Box::new(move || Hello { role: Role::Client { name: name.clone() }, history }))
}

fn to(addr: &str, node: Option<u64>) -> Peer {
    Peer { addr: addr.to_owned(), node: node.map(NodeId::new) }
}

async fn carry(from: &mut Node, to: &Node) -> Message {
    let line = from.lines.recv().await.unwrap();
    let message = Message::parse(&line).unwrap();
    to.network.receive(message.clone());
    message
}

async fn call(transport: &Arc<dyn Transport>, to: Peer) -> Result<Bytes, CallError> {
    transport.call(&to, 1, Bytes::from_static(b"hello"), TIMEOUT).await
}

#[tokio::test]
async fn a_call_is_answered_and_the_answer_names_who_gave_it() {
    let (mut one, mut two) = (node("n1"), node("n2"));
    let _server = open(&two, 2, Some(HistoryId::from_bits(7)));
    let transport = caller(&one, "test", None);
    let peer = to("n2", Some(2));
    assert_eq!(transport.welcome(&peer), None);
    let (answered, ()) = tokio::join!(call(&transport, peer.clone()), async {
        carry(&mut one, &two).await;
        carry(&mut two, &one).await;
    });
    assert_eq!(answered.unwrap(), "hello");
    assert_eq!(transport.welcome(&peer).unwrap().history, Some(HistoryId::from_bits(7)));
}

/// Goal: a refusal is definite, so it must come before the request is handled, for each of the three reasons.
#[tokio::test]
async fn callers_who_may_not_come_in_are_refused_by_name_here_and_there() {
    let history = HistoryId::from_bits(7);
    let other = HistoryId::from_bits(8);
    for (name, caller_history, wanted, reason, met) in [
        ("stranger", None, None, "strangers stay out", None),
        ("test", Some(other), None, "history", Some(history)),
        ("test", None, Some(3), "node 2 answers there", None),
    ] {
        let (mut one, mut two) = (node("n1"), node("n2"));
        let _server = open(&two, 2, Some(history));
        let transport = caller(&one, name, caller_history);
        let (there, ()) = tokio::join!(call(&transport, to("n2", wanted)), async {
            carry(&mut one, &two).await;
            carry(&mut two, &one).await;
        });
        let here = call(&caller(&two, name, caller_history), to("n2", wanted)).await;
        for refused in [there, here] {
            let Err(CallError::Refused { reason: told, history: told_history, .. }) = refused else {
                panic!("{refused:?}")
            };
            assert!(told.contains(reason), "{told}");
            assert_eq!(told_history, met);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_on_the_way_or_not_answered_may_have_been_handled() {
    let (mut one, two) = (node("n1"), node("n2"));
    let _server = open(&two, 2, None);
    let transport = caller(&one, "test", None);
    assert!(matches!(call(&transport, to("n2", None)).await, Err(CallError::Lost { .. })));
    one.lines.recv().await.unwrap();
    assert_eq!(one.network.shared.calls.lock().waiting.len(), 0, "nobody waits for it any more");
    let here = caller(&two, "test", None).call(&to("n2", None), 9, Bytes::new(), TIMEOUT).await;
    assert!(matches!(here, Err(CallError::Lost { .. })));
}

#[tokio::test]
async fn what_was_never_given_to_maelstrom_is_not_sent() {
    let one = node("n1");
    let transport = caller(&one, "test", None);
    assert!(matches!(call(&transport, to("n1", None)).await, Err(CallError::NotSent { .. })), "no service here yet");
    drop(one.lines);
    assert!(matches!(call(&transport, to("n2", None)).await, Err(CallError::NotSent { .. })));
    let large = Bytes::from(vec![0; FRAME_BYTES_MAX + 1]);
    let refused = transport.call(&to("n2", None), 1, large, TIMEOUT).await;
    assert!(matches!(refused, Err(CallError::NotSent { .. })));
}

/// Goal: nodes hear their `init` at different times; a call that comes first is answered when its node is there.
#[tokio::test]
async fn calls_wait_for_the_service() {
    let (mut one, mut two) = (node("n1"), node("n2"));
    let transport = caller(&one, "test", None);
    let (answered, ()) = tokio::join!(call(&transport, to("n2", None)), async {
        carry(&mut one, &two).await;
        assert!(two.lines.try_recv().is_err());
        let server = open(&two, 2, None);
        carry(&mut two, &one).await;
        server.shutdown().await;
    });
    assert_eq!(answered.unwrap(), "hello");
    let (refused, ()) = tokio::join!(call(&transport, to("n2", None)), async {
        carry(&mut one, &two).await;
        carry(&mut two, &one).await;
    });
    assert!(matches!(refused, Err(CallError::Refused { .. })), "and not after it: {refused:?}");
}

/// Goal: an answer that is late, of an earlier life, or of somebody else is nobody's.
#[tokio::test(start_paused = true)]
async fn answers_to_others_are_passed_over() {
    let (mut one, mut two) = (node("n1"), node("n2"));
    let _server = open(&two, 2, None);
    let transport = caller(&one, "test", None);
    let (answered, ()) = tokio::join!(call(&transport, to("n2", None)), async {
        carry(&mut one, &two).await;
        let line = two.lines.recv().await.unwrap();
        let right = Message::parse(&line).unwrap();
        let mut forged = right.clone();
        forged.src = "n3".to_owned();
        one.network.receive(forged);
        let mut stale = right.clone();
        stale.body.insert("in_reply_to".to_owned(), json!(1));
        one.network.receive(stale);
    });
    assert!(matches!(answered, Err(CallError::Lost { .. })));
    let numbers: Vec<u64> = (0..8).map(|_| node("n1").network.shared.calls.lock().next).collect();
    assert!(numbers.iter().any(|&number| number != numbers[0]), "numbers begin at random");
}

/// Goal: nothing that comes in stops the process.
#[tokio::test]
async fn messages_that_lie_are_passed_over() {
    let mut one = node("n1");
    let _server = open(&one, 1, None);
    for body in [
        json!({"type": CALL}),
        json!({"type": CALL, "msg_id": -1, "service": 1, "node": null, "hello": "", "data": ""}),
        json!({"type": CALL, "msg_id": 1, "service": 999, "node": null, "hello": "", "data": ""}),
        json!({"type": CALL, "msg_id": 1, "service": 1, "node": null, "hello": "%%%", "data": ""}),
        json!({"type": CALL, "msg_id": 1, "service": 1, "node": null, "hello": "AAAA", "data": ""}),
        json!({"type": ANSWER, "in_reply_to": 1, "welcome": "AAAA", "data": ""}),
        json!({"type": ANSWER}),
        json!({"type": REFUSED, "in_reply_to": "x", "reason": 1, "history": 2}),
        json!({"type": REFUSED, "in_reply_to": 1, "reason": "", "history": "no history"}),
    ] {
        let line = json!({"src": "n2", "dest": "n1", "body": body}).to_string();
        one.network.receive(Message::parse(line.as_bytes()).unwrap());
    }
    assert!(one.lines.try_recv().is_err());
}
