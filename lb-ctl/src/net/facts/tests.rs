//! Messages in, facts out.

use netlink_packet_route::{
    link::{InfoKind, VlanProtocol},
    neighbour::NeighbourHeader,
};

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn ip() -> IpAddr {
    "10.12.1.110".parse().unwrap()
}

fn neighbour(state: NeighbourState) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader { family: AddressFamily::Inet, ifindex: 2, state, ..Default::default() };
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 12, 1, 110].into())),
        NeighbourAttribute::LinkLayerAddress(MAC.to_vec()),
    ];
    message
}

fn watching() -> (State, Watched) {
    let mut state = State::default();
    state.set_routes(BTreeMap::from([(ip(), Route { ifindex: Some(2), gateway: None, local: false })]));
    (state, Watched::from([ip()]))
}

fn told(state: &State) -> (Option<Mac>, bool) {
    let path = &state.facts().paths[&ip()];
    (path.mac, path.failed)
}

#[test]
fn a_mac_counts_while_the_kernel_believes_in_it_and_failure_lasts_until_an_answer() {
    use NeighbourState as S;
    let known = (Some(Mac(MAC)), false);
    let steps = [
        (S::Incomplete, (None, false)),
        (S::Reachable, known),
        (S::Stale, known),
        (S::Delay, known),
        (S::Probe, known),
        (S::Failed, (None, true)),
        (S::Incomplete, (None, true)),
        (S::Permanent, known),
        (S::Noarp, known),
    ];
    let (mut state, watched) = watching();
    for (kernel, expected) in steps {
        let effect = state.apply(RouteNetlinkMessage::NewNeighbour(neighbour(kernel)), &watched);
        assert_eq!((effect, told(&state)), (Effect::Neighbour, expected), "{kernel}");
    }
}

#[test]
fn a_failed_neighbour_that_the_kernel_forgets_is_still_failed_and_a_good_one_is_just_unknown() {
    let (mut state, watched) = watching();
    let gone = || RouteNetlinkMessage::DelNeighbour(neighbour(NeighbourState::Failed));
    state.apply(RouteNetlinkMessage::NewNeighbour(neighbour(NeighbourState::Failed)), &watched);
    state.apply(gone(), &watched);
    assert_eq!(told(&state), (None, true));
    state.apply(RouteNetlinkMessage::NewNeighbour(neighbour(NeighbourState::Reachable)), &watched);
    state.apply(gone(), &watched);
    assert_eq!(told(&state), (None, false));
}

#[test]
fn neighbours_nobody_watches_are_no_news() {
    let (mut state, _) = watching();
    let message = RouteNetlinkMessage::NewNeighbour(neighbour(NeighbourState::Reachable));
    assert_eq!(state.apply(message, &Watched::new()), Effect::Nothing);
    assert!(state.neighbours.is_empty());
}

#[test]
fn unresolved_neighbours_are_asked_for_each_round_and_known_ones_confirmed_once_in_ten() {
    let (mut state, watched) = watching();
    let resolve = vec![(2, ip(), Ask::Resolve)];
    assert_eq!(state.asks(0, 10), resolve);
    assert_eq!(state.asks(1, 10), resolve);
    let mut hear = |kernel| {
        state.apply(RouteNetlinkMessage::NewNeighbour(neighbour(kernel)), &watched);
        (0..10).flat_map(|round| state.asks(round, 10)).collect::<Vec<_>>()
    };
    assert_eq!(hear(NeighbourState::Stale), [(2, ip(), Ask::Confirm)]);
    assert_eq!(hear(NeighbourState::Probe), [], "already asking");
    assert_eq!(hear(NeighbourState::Permanent), [], "an administrator's entry is left alone");
    assert_eq!(hear(NeighbourState::Failed).len(), 10);
}

#[test]
fn nothing_is_asked_about_own_addresses_and_addresses_behind_a_gateway() {
    let mut state = State::default();
    let gateway = Some("10.12.1.1".parse().unwrap());
    for route in [
        Route { ifindex: Some(2), gateway, local: false },
        Route { ifindex: Some(1), gateway: None, local: true },
        Route::default(),
    ] {
        state.set_routes(BTreeMap::from([(ip(), route)]));
        assert_eq!(state.asks(0, 1), [], "{route:?}");
        assert_eq!(told(&state), (None, false));
    }
}

#[test]
fn an_own_address_is_where_it_is_and_not_on_loopback() {
    let mut state = State::default();
    state.set_routes(BTreeMap::from([(ip(), Route { ifindex: Some(1), gateway: None, local: true })]));
    let mut message = AddressMessage::default();
    message.header.index = 7;
    message.header.prefix_len = 32;
    message.attributes = vec![AddressAttribute::Local(ip())];
    assert_eq!(state.apply(RouteNetlinkMessage::NewAddress(message), &Watched::new()), Effect::Routes);
    let path = &state.facts().paths[&ip()];
    assert_eq!((path.ifindex, path.local), (Some(7), true));
}

#[test]
fn a_vlan_interface_has_its_tag_and_parent_and_a_veth_has_no_parent() {
    let told = |kind: InfoKind, data: Option<InfoData>| {
        let mut message = LinkMessage::default();
        message.header.index = 4;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        let mut info = vec![LinkInfo::Kind(kind)];
        info.extend(data.map(LinkInfo::Data));
        message.attributes = vec![
            LinkAttribute::IfName("x".into()),
            LinkAttribute::Address(MAC.to_vec()),
            LinkAttribute::Link(2),
            LinkAttribute::Controller(9),
            LinkAttribute::LinkInfo(info),
        ];
        link(&message)
    };
    let vlan = vec![InfoVlan::Protocol(VlanProtocol::Ieee8021Ad), InfoVlan::Id(104)];
    let vlan = told(InfoKind::Vlan, Some(InfoData::Vlan(vlan)));
    assert_eq!(vlan.vlan, Some(VlanTag { id: 104, tpid: 0x88a8 }));
    assert_eq!((vlan.kind.as_deref(), vlan.parent, vlan.master), (Some("vlan"), Some(2), Some(9)));
    assert_eq!((vlan.up, vlan.carrier, vlan.mac), (true, true, Mac(MAC)));
    assert_eq!(told(InfoKind::Veth, None).parent, None, "a veth's link is its peer");
}

#[test]
fn a_bridges_talk_about_its_ports_changes_no_link() {
    let mut state = State::default();
    let mut message = LinkMessage::default();
    message.header.index = 2;
    message.attributes = vec![LinkAttribute::IfName("eth0".into())];
    assert_eq!(state.apply(RouteNetlinkMessage::NewLink(message.clone()), &Watched::new()), Effect::Routes);
    message.header.interface_family = AddressFamily::Bridge;
    assert_eq!(state.apply(RouteNetlinkMessage::DelLink(message), &Watched::new()), Effect::Nothing);
    assert!(state.facts().links.contains_key(&2));
}
