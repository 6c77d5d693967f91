use super::*;

fn sealed() -> SealedSecret {
    SealedSecret {
        encapsulated_key: [1; 32],
        ciphertext: vec![2],
    }
}

fn ticket(material: Option<SealedSecret>) -> RejoinTicket {
    RejoinTicket {
        cluster_id: ClusterId::from_bytes([1; 32]),
        generation: Generation::FIRST,
        data_key: sealed(),
        node_name: "worker-0".parse().unwrap(),
        role: Role::Worker,
        material,
        ak_certificate: None,
    }
}

/// A wrong hint costs a second call, a right one none; material is never asked for twice.
#[test]
fn certificates_are_asked_for_again_only_under_another_name() {
    let asked = |name: &str| KubeletKeys::make(&name.parse().unwrap(), None).unwrap();
    let (right, wrong) = (asked("worker-0"), asked("worker-1"));
    let without = ticket(None);
    assert_eq!(uncertified(&without, None), Some(&without.node_name));
    assert_eq!(
        uncertified(&without, Some(&wrong)),
        Some(&without.node_name)
    );
    assert_eq!(uncertified(&without, Some(&right)), None);
    for asked in [None, Some(&wrong), Some(&right)] {
        assert_eq!(uncertified(&ticket(Some(sealed())), asked), None);
    }
}
