//! Compares our codec with that of netgauze, which was written by others.

use std::{
    collections::{BTreeSet, HashMap},
    io::Cursor,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ::arbitrary::{Arbitrary as _, Unstructured};
use netgauze_bgp_pkt::{
    BgpMessage,
    capabilities::{BgpCapability, FourOctetAsCapability, MultiProtocolExtensionsCapability},
    nlri::{Ipv4Unicast, Ipv4UnicastAddress, Ipv6Unicast, Ipv6UnicastAddress},
    open::{BgpOpenMessage, BgpOpenMessageParameter},
    path_attribute::{
        As4PathSegment, AsPath, AsPathSegmentType, MpReach, MpUnreach, PathAttribute,
        PathAttributeValue,
    },
    update::BgpUpdateMessage,
    wire::deserializer::BgpParsingContext,
};
use netgauze_iana::address_family::AddressType;
use netgauze_parse_utils::{
    WritablePdu as _, reader::SliceReader, traits::ParseFromWithOneInput as _,
};
use proptest::prelude::*;

use super::super::*;
use crate::{
    community::{Community, LargeCommunity},
    routes::Attributes,
};

fn parse(bytes: &[u8]) -> Result<BgpMessage, String> {
    let mut context =
        BgpParsingContext::new(true, HashMap::new(), HashMap::new(), true, true, true, true);
    let mut reader = SliceReader::new(bytes);
    BgpMessage::parse(&mut reader, &mut context).map_err(|error| error.to_string())
}

fn parse_update(bytes: &[u8]) -> BgpUpdateMessage {
    match parse(bytes) {
        Ok(BgpMessage::Update(update)) => update,
        other => panic!("not an UPDATE: {other:?}"),
    }
}

prop_compose! {
    fn attributes()(
        communities in prop::collection::vec(any::<u32>(), 0..5),
        large in prop::collection::vec(any::<(u32, [u32; 2])>(), 0..30),
        med in any::<Option<u32>>(),
        local_pref in any::<Option<u32>>(),
        prepend in any::<u8>(),
    ) -> Attributes {
        let large = large.into_iter().map(|(global, local)| LargeCommunity { global, local });
        Attributes {
            communities: communities.into_iter().map(Community).collect(),
            large_communities: large.collect(),
            med,
            local_pref,
            prepend,
        }
    }
}

prop_compose! {
    fn context()(
        local_as in 1u32..,
        internal in any::<bool>(),
        v4 in any::<u32>(),
        v6 in any::<u128>(),
    ) -> PathContext {
        let next_hops = NextHops {
            v4: Some(Ipv4Addr::from_bits(v4)),
            v6: Some(Ipv6Addr::from_bits(v6)),
        };
        PathContext { local_as, internal, next_hops }
    }
}

fn addresses(family: Family) -> impl Strategy<Value = BTreeSet<IpAddr>> {
    let v4 = any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits & 0xdfff_ffff).into());
    let v6 = any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits >> 4 | 2 << 124).into());
    let one = match family {
        Family::V4 => v4.boxed(),
        Family::V6 => v6.boxed(),
    };
    prop::collection::btree_set(one, 1..400)
}

/// What netgauze reads in an UPDATE.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    announced: BTreeSet<IpAddr>,
    withdrawn: BTreeSet<IpAddr>,
    next_hops: Vec<IpAddr>,
    as_path: Vec<u32>,
    med: Option<u32>,
    local_pref: Option<u32>,
    communities: Vec<Community>,
    large_communities: Vec<LargeCommunity>,
}

fn seen(update: &BgpUpdateMessage) -> Seen {
    let mut seen = Seen::default();
    let v4 = update.nlri().iter().map(|it| it.network().address());
    seen.announced.extend(v4.map(|it| IpAddr::from(it.addr())));
    let v4 = update.withdraw_routes().iter();
    let v4 = v4.map(|it| it.network().address().addr());
    seen.withdrawn.extend(v4.map(IpAddr::from));
    for attribute in update.path_attributes() {
        match attribute.value() {
            PathAttributeValue::NextHop(hop) => seen.next_hops.push(hop.next_hop().into()),
            PathAttributeValue::MultiExitDiscriminator(med) => seen.med = Some(med.metric()),
            PathAttributeValue::LocalPreference(it) => seen.local_pref = Some(it.metric()),
            PathAttributeValue::AsPath(AsPath::As4PathSegments(segments)) => {
                seen.as_path = segments.iter().flat_map(sequence).collect();
            }
            PathAttributeValue::Communities(all) => {
                let all = all.communities().iter();
                seen.communities = all.map(|it| Community(it.value())).collect();
            }
            PathAttributeValue::LargeCommunities(all) => {
                let all = all.communities().iter().map(|it| LargeCommunity {
                    global: it.global_admin(),
                    local: [it.local_data1(), it.local_data2()],
                });
                seen.large_communities = all.collect();
            }
            PathAttributeValue::MpReach(MpReach::Ipv6Unicast {
                next_hop_global,
                nlri,
                ..
            }) => {
                seen.next_hops.push((*next_hop_global).into());
                let v6 = nlri.iter().map(|it| it.network().address().addr());
                seen.announced.extend(v6.map(IpAddr::from));
            }
            PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast { nlri }) => {
                let v6 = nlri.iter().map(|it| it.network().address().addr());
                seen.withdrawn.extend(v6.map(IpAddr::from));
            }
            PathAttributeValue::Origin(_) => {}
            other => panic!("unexpected attribute {other:?}"),
        }
    }
    seen
}

fn sequence(segment: &As4PathSegment) -> Vec<u32> {
    assert_eq!(segment.segment_type(), AsPathSegmentType::AsSequence);
    segment.as_numbers().to_vec()
}

fn check_announcement(
    family: Family,
    path: &PathContext,
    attributes: &Attributes,
    addresses: &BTreeSet<IpAddr>,
) {
    let mut left = addresses.iter().copied().peekable();
    let mut announced = BTreeSet::new();
    while left.peek().is_some() {
        let message = announce(family, path, attributes, &mut left);
        let mut got = seen(&parse_update(&message));
        announced.append(&mut got.announced);
        let length = if path.internal {
            0
        } else {
            1 + usize::from(attributes.prepend)
        };
        let local_pref = attributes.local_pref.unwrap_or(100);
        let hop = match family {
            Family::V4 => path.next_hops.v4.map(IpAddr::from),
            Family::V6 => path.next_hops.v6.map(IpAddr::from),
        };
        let expected = Seen {
            next_hops: hop.into_iter().collect(),
            as_path: vec![path.local_as; length],
            med: attributes.med,
            local_pref: path.internal.then_some(local_pref),
            communities: attributes.communities.clone(),
            large_communities: attributes.large_communities.clone(),
            ..Seen::default()
        };
        assert_eq!(got, expected);
    }
    assert_eq!(&announced, addresses);
}

#[test]
fn the_longest_path_is_complete() {
    let path = PathContext {
        local_as: u32::MAX,
        internal: false,
        next_hops: NextHops {
            v4: Some(Ipv4Addr::LOCALHOST),
            v6: Some(Ipv6Addr::LOCALHOST),
        },
    };
    let attributes = Attributes {
        prepend: u8::MAX,
        ..Attributes::default()
    };
    let address = [IpAddr::from([192, 0, 2, 1])].into();
    check_announcement(Family::V4, &path, &attributes, &address);
}

proptest! {
    #[test]
    fn announcements_mean_the_same_to_both(
        path in context(),
        attributes in attributes(),
        v4 in addresses(Family::V4),
        v6 in addresses(Family::V6),
    ) {
        check_announcement(Family::V4, &path, &attributes, &v4);
        check_announcement(Family::V6, &path, &attributes, &v6);
    }

    #[test]
    fn withdrawals_mean_the_same_to_both(
        v4 in addresses(Family::V4),
        v6 in addresses(Family::V6),
    ) {
        for (family, addresses) in [(Family::V4, v4), (Family::V6, v6)] {
            let mut left = addresses.iter().copied().peekable();
            let mut withdrawn = BTreeSet::new();
            while left.peek().is_some() {
                let mut got = seen(&parse_update(&withdraw(family, &mut left)));
                withdrawn.append(&mut got.withdrawn);
                prop_assert_eq!(got, Seen::default());
            }
            prop_assert_eq!(withdrawn, addresses);
        }
    }

    #[test]
    fn opens_mean_the_same_to_both(
        asn in 1u32..,
        hold_time_s in 3u16..,
        router_id in 1u32..0xe000_0000,
        route_refresh in any::<bool>(),
    ) {
        let open = Open {
            asn,
            hold_time_s,
            router_id: Ipv4Addr::from_bits(router_id),
            families: Some(Family::ALL.to_vec()),
            route_refresh,
            four_octet_as: true,
        };
        let Ok(BgpMessage::Open(other)) = parse(&open.encode()) else {
            panic!("not an OPEN");
        };
        prop_assert_eq!(other.my_asn4(), asn);
        prop_assert_eq!(other.hold_time(), hold_time_s);
        prop_assert_eq!(other.bgp_id(), open.router_id);
        let families = other.capabilities().into_iter().filter_map(|it| match it {
            BgpCapability::MultiProtocolExtensions(it) => Some(it.address_type()),
            _ => None,
        });
        let both = [AddressType::Ipv4Unicast, AddressType::Ipv6Unicast];
        prop_assert_eq!(families.collect::<Vec<_>>(), both);
        let refresh = other.capabilities().contains(&&BgpCapability::RouteRefresh);
        prop_assert_eq!(refresh, route_refresh);
        prop_assert_eq!(decode(&open.encode()).unwrap().unwrap().0, Message::Open(open));
    }

    #[test]
    fn opens_of_the_other_codec_are_decoded(
        asn in 1u32..,
        hold_time in any::<u16>(),
        router_id in 1u32..0xe000_0000,
        separate in any::<bool>(),
        v6 in any::<bool>(),
    ) {
        let mut capabilities = vec![
            BgpCapability::CiscoRouteRefresh,
            multiprotocol(AddressType::Ipv4MplsLabeledVpn),
            multiprotocol(AddressType::Ipv4Unicast),
            BgpCapability::RouteRefresh,
            BgpCapability::FourOctetAs(FourOctetAsCapability::new(asn)),
        ];
        if v6 {
            capabilities.push(multiprotocol(AddressType::Ipv6Unicast));
        }
        // BIRD puts all capabilities into one parameter, FRR each into one of its own.
        let parameters: Vec<BgpOpenMessageParameter> = if separate {
            let each = capabilities.into_iter();
            each.map(|it| BgpOpenMessageParameter::new_capabilities([it])).collect()
        } else {
            vec![BgpOpenMessageParameter::new_capabilities(capabilities)]
        };
        let router_id = Ipv4Addr::from_bits(router_id);
        let theirs = BgpOpenMessage::new(23456, hold_time, router_id, parameters);
        let families = if v6 { vec![Family::V4, Family::V6] } else { vec![Family::V4] };
        let expected = Open {
            asn,
            hold_time_s: hold_time,
            router_id,
            families: Some(families),
            route_refresh: true,
            four_octet_as: true,
        };
        prop_assert_eq!(decode(&write(&BgpMessage::Open(theirs))).unwrap().unwrap().0, Message::Open(expected));
    }

    #[test]
    fn updates_of_the_other_codec_are_decoded(
        v4 in prop::collection::vec((any::<u32>(), 0u8..=32), 0..50),
        v6 in prop::collection::vec((any::<u128>(), 0u8..=128), 0..50),
        cut in any::<prop::sample::Index>(),
    ) {
        let v4: Vec<Ipv4UnicastAddress> = v4.into_iter().filter_map(v4_prefix).collect();
        let v6: Vec<Ipv6UnicastAddress> = v6.into_iter().filter_map(v6_prefix).collect();
        let (v4_gone, v4_new) = v4.split_at(cut.index(v4.len() + 1));
        let (v6_gone, v6_new) = v6.split_at(cut.index(v6.len() + 1));
        let reach = PathAttributeValue::MpReach(MpReach::Ipv6Unicast {
            next_hop_global: Ipv6Addr::LOCALHOST,
            // FRR adds the link-local next hop.
            next_hop_local: Some([0xfe80, 0, 0, 0, 0, 0, 0, 1].into()),
            nlri: v6_new.into(),
        });
        let unreach = PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast { nlri: v6_gone.into() });
        let attributes = [reach, unreach].map(|it| PathAttribute::from(true, false, false, true, it).unwrap());
        let theirs = BgpUpdateMessage::new(v4_gone, attributes, v4_new);
        let expected = ReceivedUpdate {
            announced: v4_new.len() + v6_new.len(),
            withdrawn: v4_gone.len() + v6_gone.len(),
            malformed: false,
        };
        prop_assert_eq!(decode(&write(&BgpMessage::Update(theirs))).unwrap().unwrap().0, Message::Update(expected));
    }

    /// A message that netgauze can write and read again is valid for us as well, with the same number
    /// of prefixes. Excluded: prefixes with a path identifier (RFC 7911), which neither side offers.
    #[test]
    fn messages_of_the_other_codec_are_accepted(
        random in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let Ok(message) = BgpMessage::arbitrary(&mut Unstructured::new(&random)) else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        if message.write(&mut Cursor::new(&mut bytes)).is_err() || bytes.len() > LONGEST {
            return Ok(());
        }
        let ours = decode(&bytes);
        if parse(&bytes).as_ref() != Ok(&message) {
            return Ok(());
        }
        match (message, ours) {
            (BgpMessage::Update(theirs), Ok(Some((Message::Update(ours), length)))) => {
                prop_assert_eq!(length, bytes.len());
                if let Some((announced, withdrawn)) = counts(&theirs) {
                    prop_assert_eq!((ours.announced, ours.withdrawn), (announced, withdrawn));
                }
            }
            (BgpMessage::Update(theirs), Err(error)) => {
                prop_assert!(counts(&theirs).is_none(), "{error}: {theirs:?}");
            }
            (BgpMessage::Open(theirs), Ok(Some((Message::Open(ours), _)))) => {
                prop_assert_eq!(ours.hold_time_s, theirs.hold_time());
                prop_assert_eq!(ours.router_id, theirs.bgp_id());
            }
            (_, ours) => prop_assert!(matches!(ours, Ok(Some(_))), "{ours:?}"),
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        body in prop::collection::vec(any::<u8>(), 0..300),
        kind in 0u8..7,
    ) {
        let mut bytes = vec![0xff; 16];
        bytes.extend((HEADER as u16 + body.len() as u16).to_be_bytes());
        bytes.push(kind);
        bytes.extend(&body);
        let _ = decode(&body);
        if let Err(error) = decode(&bytes) {
            prop_assert!(matches!(error.code, 1..=3), "{error}");
        }
    }

    #[test]
    fn changed_updates_are_decoded_or_refused(
        path in context(),
        attributes in attributes(),
        v6 in addresses(Family::V6),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut left = v6.iter().copied().peekable();
        let mut bytes = announce(Family::V6, &path, &attributes, &mut left);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Err(error) = decode(&bytes) {
            prop_assert!(matches!(error.code, 1..=3), "{error}");
        }
    }
}

fn write(message: &BgpMessage) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.write(&mut Cursor::new(&mut bytes)).unwrap();
    bytes
}

fn multiprotocol(family: AddressType) -> BgpCapability {
    BgpCapability::MultiProtocolExtensions(MultiProtocolExtensionsCapability::new(family))
}

/// Returns a prefix, if it is unicast.
fn v4_prefix((bits, length): (u32, u8)) -> Option<Ipv4UnicastAddress> {
    let text = format!("{}/{length}", Ipv4Addr::from_bits(bits));
    let network = Ipv4Unicast::from_net(text.parse().unwrap()).ok()?;
    Some(Ipv4UnicastAddress::new(None, network))
}

/// Returns a prefix, if it is unicast.
fn v6_prefix((bits, length): (u128, u8)) -> Option<Ipv6UnicastAddress> {
    let text = format!("{}/{length}", Ipv6Addr::from_bits(bits));
    let network = Ipv6Unicast::from_net(text.parse().unwrap()).ok()?;
    Some(Ipv6UnicastAddress::new(None, network))
}

/// Counts prefixes of IPv4 and IPv6 unicast; `None` if one has a path identifier.
fn counts(update: &BgpUpdateMessage) -> Option<(usize, usize)> {
    let mut counts = (update.nlri().len(), update.withdraw_routes().len());
    let mut plain = update
        .nlri()
        .iter()
        .chain(update.withdraw_routes())
        .all(|it| it.path_id().is_none());
    for attribute in update.path_attributes() {
        match attribute.value() {
            PathAttributeValue::MpReach(MpReach::Ipv4Unicast { nlri, .. }) => {
                counts.0 += nlri.len();
                plain &= nlri.iter().all(|it| it.path_id().is_none());
            }
            PathAttributeValue::MpReach(MpReach::Ipv6Unicast { nlri, .. }) => {
                counts.0 += nlri.len();
                plain &= nlri.iter().all(|it| it.path_id().is_none());
            }
            PathAttributeValue::MpUnreach(MpUnreach::Ipv4Unicast { nlri }) => {
                counts.1 += nlri.len();
                plain &= nlri.iter().all(|it| it.path_id().is_none());
            }
            PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast { nlri }) => {
                counts.1 += nlri.len();
                plain &= nlri.iter().all(|it| it.path_id().is_none());
            }
            _ => {}
        }
    }
    plain.then_some(counts)
}
