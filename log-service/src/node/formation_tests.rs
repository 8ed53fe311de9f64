//! Formation's decisions, case by case.

use super::*;

fn store(bits: u128) -> StoreId {
    StoreId::from_bits(bits)
}

fn blank(node: u64) -> Description {
    Description {
        node: NodeId::new(node),
        store: store(u128::from(node)),
        cluster: None,
        configured: [1, 2, 3].map(NodeId::new).to_vec(),
        partitions: 4,
        dedup_window: 4096,
        has_room: true,
    }
}

fn cluster() -> Cluster {
    let stores = [2, 3].map(|node| (NodeId::new(node), store(u128::from(node))));
    mint(&blank(1), |node| (format!("r{node}"), format!("h{node}")), &stores, HistoryId::from_bits(0x00c7_f3a1))
}

fn said(description: Description) -> (NodeId, Result<Description, String>) {
    (description.node, Ok(description))
}

fn silent(node: u64) -> (NodeId, Result<Description, String>) {
    (NodeId::new(node), Err("refused".to_owned()))
}

#[test]
fn the_lowest_node_mints_only_when_all_answer_that_they_are_blank() {
    let me = blank(1);
    assert!(matches!(next_step(&me, &[said(blank(2)), silent(3)]), NextStep::Wait { .. }));
    let stores = vec![(NodeId::new(2), store(2)), (NodeId::new(3), store(3))];
    assert_eq!(next_step(&me, &[said(blank(2)), said(blank(3))]), NextStep::Mint { stores });
    assert!(matches!(next_step(&blank(2), &[said(blank(1)), said(blank(3))]), NextStep::Wait { .. }));
    let alone = Description { configured: vec![NodeId::new(1)], ..blank(1) };
    assert_eq!(next_step(&alone, &[]), NextStep::Mint { stores: Vec::new() });
}

/// Goal: a crash between the minting node's write and anybody else's leaves nothing to undo. Method: the minting node is
/// formed, some others are, one is not: whoever is blank adopts, whoever answers.
#[test]
fn whoever_is_still_blank_adopts_the_cluster_that_lists_its_folder() {
    let formed = |node| Description { cluster: Some(cluster()), ..blank(node) };
    assert_eq!(next_step(&blank(3), &[said(formed(1)), said(blank(2))]), NextStep::Adopt { cluster: cluster() });
    assert_eq!(next_step(&blank(3), &[silent(1), said(formed(2))]), NextStep::Adopt { cluster: cluster() });
    // The minting node itself, had it lost its write, would be in no formed peer's list but its own: it adopts, too.
    assert_eq!(next_step(&blank(1), &[said(formed(2)), silent(3)]), NextStep::Adopt { cluster: cluster() });
}

/// Goal: it does not depend on who is asked first to which cluster a node belongs. Method: two peers of two clusters, in both
/// orders; one of the clusters even lists this folder.
#[test]
fn a_node_joins_no_cluster_while_its_peers_are_of_two() {
    let other = Cluster { history: HistoryId::from_bits(5), ..cluster() };
    let formed = |node, cluster: &Cluster| said(Description { cluster: Some(cluster.clone()), ..blank(node) });
    for answers in [[formed(1, &cluster()), formed(2, &other)], [formed(1, &other), formed(2, &cluster())]] {
        let NextStep::Refused { why } = next_step(&blank(3), &answers) else { panic!("it joined one") };
        assert!(why.contains("c7f3a1") && why.contains("000005"), "{why}");
    }
}

#[test]
fn a_wiped_node_neither_forms_nor_joins() {
    let formed = |node| Description { cluster: Some(cluster()), ..blank(node) };
    for node in [1, 2, 3] {
        let wiped = Description { store: store(77), ..blank(node) };
        let others: Vec<_> =
            [1, 2, 3].into_iter().filter(|&other| other != node).map(|other| said(formed(other))).collect();
        let NextStep::Refused { why } = next_step(&wiped, &others) else { panic!("node {node} went on") };
        assert!(why.contains("must join as a new node"), "{why}");
        // One formed peer is enough, also where the other is silent.
        assert!(matches!(next_step(&wiped, &others[..1]), NextStep::Refused { .. }));
    }
}

#[test]
fn nodes_of_two_minds_do_not_form() {
    let other = Description { partitions: 8, ..blank(2) };
    assert!(matches!(next_step(&blank(1), &[said(other), said(blank(3))]), NextStep::Refused { .. }));
    let other = Description { configured: vec![NodeId::new(2), NodeId::new(3)], ..blank(2) };
    assert!(matches!(next_step(&blank(1), &[said(other), said(blank(3))]), NextStep::Refused { .. }));
}

fn identity(cluster: Option<Cluster>) -> Identity {
    Identity { node: NodeId::new(2), store: store(2), cluster, groups_made: false }
}

fn hello(node: u64, store_bits: u128, history: Option<u32>) -> Hello {
    Hello {
        role: Role::LogNode { node: NodeId::new(node), store: store(store_bits) },
        history: history.map(HistoryId::from_bits),
    }
}

#[test]
fn a_formed_node_lets_in_only_the_folders_that_it_knows() {
    let formed = identity(Some(cluster()));
    assert!(admit(&formed, &[], &hello(1, 1, Some(0x00c7_f3a1))).is_ok());
    // A member that has not heard of the cluster yet comes to hear of it.
    assert!(admit(&formed, &[], &hello(3, 3, None)).is_ok());
    for stranger in [hello(1, 77, None), hello(1, 77, Some(0x00c7_f3a1)), hello(9, 9, None), hello(1, 1, Some(1))] {
        assert!(admit(&formed, &[], &stranger).is_err(), "{stranger:?}");
    }
    assert!(admit(&formed, &[], &hello(1, 77, None)).unwrap_err().reason.contains("new node"));
}

#[test]
fn a_blank_node_lets_in_its_configured_peers_and_clients_without_a_history() {
    let configured = [1, 2, 3].map(NodeId::new);
    assert!(admit(&identity(None), &configured, &hello(1, 1, None)).is_ok());
    assert!(admit(&identity(None), &configured, &hello(1, 1, Some(5))).is_ok());
    assert!(admit(&identity(None), &configured, &hello(9, 9, None)).is_err());
    let client = |history: Option<u32>| Hello {
        role: Role::Client { name: "test".to_owned() },
        history: history.map(HistoryId::from_bits),
    };
    assert!(admit(&identity(None), &configured, &client(None)).is_ok());
    assert!(admit(&identity(None), &configured, &client(Some(1))).is_err());
    assert!(admit(&identity(Some(cluster())), &configured, &client(Some(1))).is_err());
}
