//! What a source is called, and which of its members a VIP accepts.

use super::*;
use crate::config::{self, Config};

#[test]
fn sources_are_read_as_they_are_written() {
    for text in [
        "dns:api.example.com:8080",
        "dns:api",
        "srv:_api._tcp.example.com",
        "api:web-1.a_b",
    ] {
        assert_eq!(text.parse::<MemberSource>().unwrap().to_string(), text);
    }
    let same = "dns:API.example.com.:80".parse::<MemberSource>().unwrap();
    assert_eq!(same.to_string(), "dns:api.example.com:80");
    for (text, has) in [
        ("api.example.com", "not a source"),
        ("http://x", "not a source"),
        ("dns:", "is empty"),
        ("dns:a..b", "is empty"),
        ("dns:a b", "' ' is not allowed"),
        ("dns:api:0", "the port"),
        ("dns:api:http", "the port"),
        ("dns:10.0.0.1:80", "an address"),
        ("dns:fd00::1", "an address"),
        ("dns:[fd00::1]:80", "an address"),
        ("srv:api:80", "':' is not allowed"),
        ("api:a/b", "not a name of a source"),
        ("api:", "not a name of a source"),
    ] {
        let error = text.parse::<MemberSource>().unwrap_err();
        assert!(error.label.contains(has), "{text}: {error:?}");
    }
    let long = format!("dns:{}", ["a"; 128].join("."));
    assert!(long.parse::<MemberSource>().is_err());
}

fn config(keys: &str) -> Config {
    let text = format!(
        "[node]\ninterfaces = [\"eth0\"]\nnat_source = [\"10.0.0.200\"]\n\
         hash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
         [[vip]]\nname = \"web\"\naddress = \"10.0.0.100\"\nport = 80\nprotocol = \"tcp\"\n{keys}\n"
    );
    match config::parse("a.toml", &text) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}"),
    }
}

fn admitted(keys: &str, members: &[Member]) -> Result<Config, String> {
    let mut config = config(keys);
    let set = MemberSet::restored(members.iter().map(|it| (it.clone(), false)), seconds(0));
    check_members(members).map_err(|error| error.to_string())?;
    match admit(&mut config, |_| set.members()) {
        Ok(()) => Ok(config),
        Err(error) => Err(error.to_string()),
    }
}

const L2: &str = "forward = \"l2\"\nring_size = 251\nbackends_from = \"dns:web\"";
const NAT: &str = "forward = \"nat\"\nbackends_from = \"dns:web\"";

#[test]
fn members_become_backends_with_the_ports_and_overrides_of_the_vip() {
    let config = admitted(L2, &members([1, 2])).unwrap();
    assert_eq!(config.vips[0].backends[1].port, 80);
    let text =
        format!("{NAT}\n[[vip.override]]\nname = \"10.0.0.2\"\nstate = \"drain\"\nweight = 3");
    let mut all = members([1, 2]);
    all[1].port = Some(8080);
    let backends = admitted(&text, &all).unwrap().vips.remove(0).backends;
    let second = &backends[1];
    assert_eq!(
        (second.port, second.weight, second.state),
        (8080, 3, BackendState::Drain)
    );
    assert_eq!((backends[0].port, backends[0].weight), (80, 100));
}

#[test]
fn a_member_that_can_be_no_backend_is_named() {
    let with = |change: fn(&mut Member)| {
        let mut all = members([1, 2]);
        change(&mut all[1]);
        all
    };
    let port = with(|member| member.port = Some(8080));
    let v6 = with(|member| member.address = "fd00::2".parse().unwrap());
    for (keys, members, has) in [
        (
            L2,
            members([1, 100]),
            "member 10.0.0.100: the address is that of a VIP",
        ),
        (NAT, members([200]), "`node.nat_source`"),
        (
            L2,
            port,
            "member 10.0.0.2 (10.0.0.2:8080): only `forward = \"nat\"` can",
        ),
        (
            L2,
            v6.clone(),
            "(fd00::2): VIP web needs backends of its own address family",
        ),
        (
            L2,
            with(|it| it.address = "127.0.0.1".parse().unwrap()),
            "a loopback address",
        ),
        (
            L2,
            with(|it| it.address = "::ffff:10.0.0.9".parse().unwrap()),
            "written as IPv6",
        ),
        (
            L2,
            with(|it| it.name = "a/b".to_owned()),
            "the name must be",
        ),
        (
            L2,
            with(|it| it.name = "10.0.0.1".to_owned()),
            "has the same name",
        ),
        (
            L2,
            with(|it| it.address = "10.0.0.1".parse().unwrap()),
            "same address and port",
        ),
        (L2, with(|it| it.weight = 65_536), "the weight"),
        (
            L2,
            (0..=251)
                .map(|i| Member {
                    name: format!("m{i}"),
                    address: Ipv4Addr::new(10, 9, 0, i).into(),
                    ..member(1)
                })
                .collect(),
            "the ring of VIP web has only 251 slots",
        ),
    ] {
        let error = admitted(keys, &members).unwrap_err();
        assert!(error.contains(has), "{has}: {error}");
    }
    assert!(admitted(&L2.replace("l2", "ipip"), &v6).is_ok());
    let many: Vec<Member> = (0..5000_u16)
        .map(|i| {
            let [a, b] = i.to_be_bytes();
            Member {
                address: Ipv4Addr::new(10, 1, a, b).into(),
                ..member(1)
            }
        })
        .collect();
    assert!(admitted(L2, &many).unwrap_err().contains("5000 members"));
}

/// What a rollback has left out must not stand in the way of anything else.
#[test]
fn only_required_members_make_an_answer_refused() {
    let set = MemberSet::restored(
        members([1, 100, 2]).into_iter().map(|it| (it, false)),
        seconds(0),
    );
    let mut config = config(L2);
    let refused = admit_required(&mut config, |_| set.members(), |_, _, _| true);
    assert!(refused.unwrap_err().to_string().contains("10.0.0.100"));
    let not_100 = |_: &config::Vip, known: &Known, _: &Inadmissible| number(&known.member) != 100;
    let left_out = admit_required(&mut config, |_| set.members(), not_100).unwrap();
    assert_eq!(left_out.len(), 1);
    let names: Vec<&str> = config.vips[0].backends.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["10.0.0.1", "10.0.0.2"]);
}

/// An operator has disabled it: it must not get flows because another one has its name now.
#[test]
fn an_override_follows_a_member_that_loses_its_name() {
    let text = format!("{L2}\n[[vip.override]]\nname = \"c\"\nstate = \"disabled\"");
    let named = |number: u8| Member {
        name: "c".to_owned(),
        ..member(number)
    };
    let set = MemberSet::default();
    let set = set
        .answered(&[member(1), named(2)], seconds(0), PACE, &[])
        .unwrap()
        .set;
    let set = set
        .answered(&[member(1), named(3)], seconds(5), PACE, &[])
        .unwrap()
        .set;
    let mut config = config(&text);
    admit(&mut config, |_| set.members()).unwrap();
    let states: Vec<BackendState> = config.vips[0].backends.iter().map(|it| it.state).collect();
    let disabled = BackendState::Disabled;
    assert_eq!(states, [BackendState::Up, disabled, disabled]);
}

/// One that is held back is in service; its twin that is leaving is not.
#[test]
fn a_held_member_is_not_hidden_by_a_leaving_twin() {
    let mut source = Source::default();
    let with_port = |number: u8| Member {
        port: Some(80),
        name: format!("p{number}"),
        ..member(number)
    };
    let all = [vec![1, 2, 3, 4]];
    source.names(&members([1, 2, 3, 4]), SET_BY_HAND, &all);
    let ports: Vec<Member> = (1..=4).map(with_port).collect();
    for _ in 0..3 {
        source.names(&ports, SET_BY_HAND, &all);
    }
    source.names(&ports[..1], PACE, &all);
    let mut config = config(L2);
    admit_what_fits(&mut config, |_| source.set.members());
    let up = config.vips[0]
        .backends
        .iter()
        .filter(|it| it.state == BackendState::Up);
    assert_eq!(up.count(), 4);
}

/// `10.0.0.1` and `10.0.0.1:80` are one backend of a VIP with port 80.
#[test]
fn a_member_that_is_named_takes_the_place_of_one_that_is_not() {
    let mut with_port = members([1]);
    with_port[0].port = Some(80);
    with_port[0].name = "web-1".to_owned();
    let first = MemberSet::default();
    let first = first
        .answered(&members([1, 2]), seconds(0), PACE, &[])
        .unwrap()
        .set;
    let set = first
        .answered(&with_port, seconds(5), PACE, &[])
        .unwrap()
        .set;
    let mut config = config(L2);
    admit_what_fits(&mut config, |_| set.members());
    let names: Vec<&str> = config.vips[0].backends.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["10.0.0.2", "web-1"]);
}

#[test]
fn the_families_of_a_source_are_those_that_the_vip_can_forward_to() {
    let families = |keys: &str| SourceKey::of(&config(keys).vips[0]).unwrap().families;
    assert_eq!(families(L2), Families::V4);
    assert_eq!(families(&L2.replace("l2", "ipip")), Families::Both);
    assert_eq!(families(&L2.replace("dns:", "api:")), Families::Both);
}
