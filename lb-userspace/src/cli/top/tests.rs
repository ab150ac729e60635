use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyModifiers},
};

use super::{super::view::tests::fixtures, model::Order, *};
use lb_api::{MemberState, VipStatus};
use lb_model::MemberRef;

fn screen(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw::draw(frame, model, Paint::PLAIN))
        .unwrap();
    terminal.backend().to_string()
}

fn press(model: &mut Model, key: char) -> After {
    model.press(KeyCode::Char(key), KeyModifiers::NONE)
}

/// The status `second` seconds later, with a varying number of new flows.
fn after(status: &Status, second: i64) -> Status {
    let mut status = status.clone();
    status.at += jiff::SignedDuration::from_secs(second);
    for vip in &mut status.vips {
        for (place, member) in vip.members.iter_mut().enumerate() {
            let wave = [0, 10, 30, 60, 100, 60, 30, 10];
            let flows: u64 = (0..second)
                .map(|at| wave[(at as usize + place) % wave.len()])
                .sum();
            member.totals.new_flows += flows;
        }
    }
    status
}

/// A model after half a minute with a revision, an alert and a health change.
fn half_a_minute(status: &Status) -> Model {
    let [_, _, health] = fixtures::events();
    let alert = Event {
        kind: "alert".into(),
        ..health.clone()
    };
    let mut model = Model::default();
    for second in 0..30 {
        let mut status = after(status, second);
        if second >= 20 {
            status.revision.as_mut().unwrap().number = 12;
        }
        let events: &[Event] = match second {
            15 => std::slice::from_ref(&health),
            25 => std::slice::from_ref(&alert),
            _ => &[],
        };
        model.update(status, events);
    }
    model
}

fn two_vips() -> Status {
    let mut status = fixtures::status();
    let mut other = VipStatus {
        name: "dns".into(),
        protocol: "udp".into(),
        port: 53,
        ..status.vips[0].clone()
    };
    other.members.truncate(1);
    status.vips.push(other);
    status
}

#[test]
fn a_screen_of_80_columns() {
    let model = half_a_minute(&two_vips());
    insta::assert_snapshot!(screen(&model, 80, 24));
}

#[test]
fn a_wide_screen_with_problems() {
    let model = half_a_minute(&fixtures::with_problems());
    insta::assert_snapshot!(screen(&model, 130, 20));
}

#[test]
fn an_unavailable_controller_leaves_a_gap_in_the_graphs() {
    let mut model = half_a_minute(&two_vips());
    for second in 30..35 {
        let now = fixtures::now() + jiff::SignedDuration::from_secs(second);
        model.set_unavailable(
            now,
            "no controller is listening on /run/evenkeel/api.sock".into(),
        );
    }
    insta::assert_snapshot!(screen(&model, 80, 24));
    // A restarted controller counts from zero.
    for second in 35..38 {
        let mut status = after(&two_vips(), second);
        status.node.started_at = fixtures::now();
        for member in &mut status.vips[0].members {
            member.totals.new_flows -= 20_000;
        }
        model.update(status, &[]);
    }
    let graph: Vec<_> = model
        .graph(&MemberRef::new("api", "api-1"))
        .unwrap()
        .iter()
        .rev()
        .copied()
        .collect();
    let unknown = graph[2..8].iter().all(Option::is_none);
    assert!(
        graph[0].is_some() && unknown && graph[8].is_some(),
        "{graph:?}"
    );
    assert!(!screen(&model, 80, 24).contains("no response"));
}

#[test]
fn shows_that_it_waits_for_the_first_response() {
    let mut model = Model::default();
    assert!(screen(&model, 80, 24).contains("waiting for the controller"));
    model.set_unavailable(fixtures::now(), "no controller is listening".into());
    assert!(screen(&model, 80, 24).contains("no controller is listening"));
}

#[test]
fn draws_on_terminals_of_every_size() {
    let model = half_a_minute(&fixtures::with_problems());
    for width in (1..140).step_by(3) {
        for height in [1, 2, 3, 5, 8, 13, 60] {
            screen(&model, width, height);
        }
    }
}

#[test]
fn sorts_members_by_the_selected_column() {
    let mut status = fixtures::status();
    status.vips[0].members[2].rates.packets_per_s = 1e6;
    status.vips[0].members[1].observed_share = Some(0.9);
    let mut model = Model::default();
    model.update(status, &[]);
    let names = |model: &Model| -> Vec<String> {
        let members = model.members();
        members
            .iter()
            .map(|member| member.backend.clone())
            .collect()
    };
    for (key, first) in [
        ('n', "api-1"),
        ('p', "api-3"),
        ('d', "api-2"),
        ('o', "api-2"),
    ] {
        press(&mut model, key);
        assert_eq!(names(&model)[0], first, "{key}");
    }
    press(&mut model, 'c');
    press(&mut model, 'r');
    assert_eq!(names(&model), ["api-3", "api-2", "api-1"]);
    // `s` cycles through all orders.
    let orders: Vec<Order> = (0..7)
        .map(|_| {
            press(&mut model, 's');
            model.order
        })
        .collect();
    assert_eq!(orders.last(), Some(&Order::Configuration));
}

#[test]
fn the_selection_stays_within_the_list_of_vips() {
    let mut model = half_a_minute(&two_vips());
    let selected = |model: &Model| model.selected().unwrap().1.name.clone();
    for (key, name) in [
        ('j', "dns"),
        ('j', "dns"),
        ('k', "api"),
        ('k', "api"),
        ('j', "dns"),
    ] {
        press(&mut model, key);
        assert_eq!(selected(&model), name);
    }
    // The selected VIP is removed.
    model.update(after(&fixtures::status(), 31), &[]);
    assert_eq!(selected(&model), "api");
}

#[test]
fn quits_on_q_escape_and_ctrl_c() {
    let mut model = Model::default();
    assert_eq!(press(&mut model, 'x'), After::Continue);
    assert_eq!(press(&mut model, 'q'), After::Quit);
    assert_eq!(model.press(KeyCode::Esc, KeyModifiers::NONE), After::Quit);
    let quit = model.press(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(quit, After::Quit);
}

#[test]
fn drops_the_graphs_of_removed_members() {
    let mut model = half_a_minute(&fixtures::status());
    let mut status = fixtures::status();
    status.vips[0].members.pop();
    for second in 31..300 {
        model.update(after(&status, second), &[]);
    }
    let graph = |backend| model.graph(&MemberRef::new("api", backend));
    assert!(graph("api-3").is_none());
    assert_eq!(graph("api-1").unwrap().len(), model.marks.len());
}

#[test]
fn leaving_members_do_not_count_as_down() {
    let mut status = fixtures::status();
    status.vips[0].members[2].state = MemberState::Leaving;
    let mut model = Model::default();
    model.update(status, &[]);
    assert!(screen(&model, 80, 24).contains("2/2"));
}
