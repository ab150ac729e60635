//! Frames that native XDP transmits arrive undamaged, and the lab detects damaged and lost ones.
//!
//! In place of the balancer, a program of a dozen instructions forwards packets for the VIP to the first
//! backend, by `XDP_TX` with one arm and `bpf_redirect` with two.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::link::{XdpMode, ip_output, set_offloads, xdp_mode};
use lab::namespace::Namespace;
use lab::nginx::Nginx;
use lab::stats::{damage, xdp_statistics};
use lab::topology::{Family, Lab, Layout, Plan};
use lab::traffic::echo::EchoServer;
use lab::traffic::flows::{FlowLoad, FlowPlan, Transport};
use lab::traffic::http::{HttpPlan, HttpReport, request};
use lab::xdp_program::{Instruction, XdpProgram};

const LIMIT: Duration = Duration::from_secs(20);

/// Two bytes as a little-endian program reads them from a packet.
fn half(bytes: &[u8]) -> i32 {
    i32::from(u16::from_le_bytes(bytes.try_into().unwrap()))
}

/// Four bytes, likewise.
fn word(bytes: &[u8]) -> i32 {
    i32::from_le_bytes(bytes.try_into().unwrap())
}

fn mac(text: &str) -> Vec<u8> {
    text.split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

fn op(opcode: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        opcode,
        registers,
        offset,
        immediate,
    }
}

/// `if packet is for VIP { new MACs; send by `out` } else { pass }`
fn stand_in(vip: IpAddr, from: &[u8], to: &[u8], out: &[Instruction]) -> Vec<Instruction> {
    let (ethertype, last_word_at, last_word) = match vip {
        IpAddr::V4(vip) => ([0x08, 0x00], 30, word(&vip.octets())),
        IpAddr::V6(vip) => ([0x86, 0xdd], 50, word(&vip.octets()[12..])),
    };
    let to_pass = |instructions_between: usize| i16::try_from(instructions_between).unwrap();
    let send = out.len();
    let mut program = vec![
        op(0x61, 0x12, 0, 0),                                // r2 = data
        op(0x61, 0x13, 4, 0),                                // r3 = data_end
        op(0xbf, 0x24, 0, 0),                                // r4 = r2
        op(0x07, 0x04, 0, 54),                               // r4 += 54
        op(0x2d, 0x34, to_pass(8 + send), 0),                // if r4 > r3 pass
        op(0x69, 0x25, 12, 0),                               // r5 = ethertype
        op(0x55, 0x05, to_pass(6 + send), half(&ethertype)), // if r5 != … pass
        op(0x61, 0x25, last_word_at, 0),                     // r5 = end of destination
        op(0x56, 0x05, to_pass(4 + send), last_word),        // if w5 != … pass
        op(0x62, 0x02, 0, word(&to[..4])),
        op(0x6a, 0x02, 4, half(&to[4..])),
        op(0x62, 0x02, 6, word(&from[..4])),
        op(0x6a, 0x02, 10, half(&from[4..])),
    ];
    program.extend(out);
    program.extend([op(0xb7, 0, 0, 2), op(0x95, 0, 0, 0)]); // pass
    program
}

fn index_of(ns: &Namespace, interface: &str) -> i32 {
    let text = ip_output(ns, &format!("-json link show dev {interface}")).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["ifindex"].as_i64().unwrap().try_into().unwrap()
}

/// Attaches the program to the balancer's first interface.
fn start_stand_in(lab: &Lab, vip: IpAddr) -> XdpProgram {
    let node = &lab.balancers[0];
    let leaves_by = node.ports.last().unwrap();
    let out = match lab.plan.layout {
        Layout::OneArm => vec![op(0xb7, 0, 0, 3), op(0x95, 0, 0, 0)], // return XDP_TX
        Layout::TwoArm => {
            vec![
                op(0xb7, 0x01, 0, index_of(&node.ns, &leaves_by.interface)), // r1 = ifindex
                op(0xb7, 0x02, 0, 0),                                        // r2 = flags
                op(0x85, 0, 0, 23), // r0 = bpf_redirect(r1, r2)
                op(0x95, 0, 0, 0),
            ]
        }
    };
    let backend = &lab.backends[0].ports[0];
    let program = stand_in(vip, &mac(&leaves_by.mac), &mac(&backend.mac), &out);
    XdpProgram::attach(&node.ns, &node.ports[0].interface, &program).unwrap()
}

struct Setting {
    lab: Lab,
    vip: IpAddr,
    _nginx: Nginx,
    echo: SocketAddr,
    _server: EchoServer,
    _stand_in: XdpProgram,
}

fn set_up(layout: Layout, family: Family) -> Setting {
    let lab = Lab::build(Plan::new(layout)).unwrap();
    let vip = lab.vip(family, 1);
    lab.backends[0].hold_vip(vip).unwrap();
    let nginx = Nginx::start(&lab.backends[0], &[SocketAddr::new(vip, 80)]).unwrap();
    let echo = SocketAddr::new(vip, 7000);
    let server = EchoServer::start(&lab.backends[0], &[echo]).unwrap();
    let stand_in = start_stand_in(&lab, vip);
    Setting {
        lab,
        vip,
        _nginx: nginx,
        echo,
        _server: server,
        _stand_in: stand_in,
    }
}

fn get(setting: &Setting, requests: u32, limit: Duration) -> HttpReport {
    let url = format!("http://{}/", SocketAddr::new(setting.vip, 80));
    let plan = HttpPlan {
        limit,
        ..HttpPlan::new(url, requests)
    };
    request(&setting.lab.clients[0], &plan).unwrap()
}

#[test]
fn native_xdp_forwards_http_tcp_and_udp_without_damage() {
    for layout in [Layout::OneArm, Layout::TwoArm] {
        for family in [Family::V4, Family::V6] {
            let setting = set_up(layout, family);
            let node = &setting.lab.balancers[0];
            let mode = xdp_mode(&node.ns, "eth0").unwrap();
            assert_eq!(mode, Some(XdpMode::Native));
            let report = get(&setting, 300, LIMIT);
            assert_eq!(report.errors, [].into(), "{layout:?} {family:?}");
            for transport in [Transport::Tcp, Transport::Udp] {
                let mut plan = FlowPlan::new(transport, setting.echo, 50);
                // More than a segment, so that large sends have to be split before XDP.
                plan.text_bytes = if transport == Transport::Tcp {
                    20_000
                } else {
                    1_000
                };
                let load = FlowLoad::start(&setting.lab.clients[0], &plan).unwrap();
                load.wait_answers(10, LIMIT).unwrap();
                let report = load.stop();
                assert_eq!(
                    report.faults(),
                    [].into(),
                    "{layout:?} {family:?} {transport:?}"
                );
                assert_eq!(report.lost(), 0);
            }
            assert_eq!(damage(&setting.lab).unwrap(), []);
            let sent = xdp_statistics(&node.ns, "eth0").unwrap();
            let counter = match layout {
                Layout::OneArm => "xdp_tx",
                Layout::TwoArm => "xdp_redirect",
            };
            assert!(sent[counter] > 3_000, "it went through XDP: {sent:?}");
        }
    }
}

#[test]
fn detects_partial_checksums_after_xdp() {
    let setting = set_up(Layout::OneArm, Family::V4);
    set_offloads(&setting.lab.switch, "balancer-0.0", &["tx", "on"]).unwrap();
    let report = get(&setting, 3, Duration::from_millis(500));
    assert_eq!(report.failed, 3);
    let damage = damage(&setting.lab).unwrap();
    let tcp = |(host, counter, _): &(String, String, u64)| {
        host == "backend-0" && counter == "TcpInCsumErrors"
    };
    assert!(damage.iter().any(tcp), "{damage:?}");
}

#[test]
fn detects_frames_lost_without_the_pass_program() {
    let mut setting = set_up(Layout::OneArm, Family::V4);
    assert_eq!(get(&setting, 10, LIMIT).failed, 0);
    setting.lab.pass_programs.clear();
    assert_eq!(get(&setting, 3, Duration::from_millis(500)).failed, 3);
}
