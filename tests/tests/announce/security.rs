//! Passwords, TTL security, and errors that the status names.

use lab::announcer::PeerPlan;

use crate::router::RouterPlan;
use crate::site::{vips, wait_established, wait_status, with_routers};

const PASSWORD: &str = "s3cret-of-the-lab";

#[test]
fn sessions_are_signed_and_a_wrong_password_is_named() {
    let plan = RouterPlan {
        password: Some(PASSWORD),
        ..RouterPlan::default()
    };
    with_routers("MD5 signatures", &plan, |_, site| {
        let right = |peer: &mut PeerPlan| peer.password = Some(PASSWORD.into());
        let announcer = site.announce(0, right).unwrap();
        announcer.announce(&vips(), &[]).unwrap();
        wait_established(&announcer).unwrap();
        site.wait_routed(&[0]).unwrap();

        let wrong = |peer: &mut PeerPlan| peer.password = Some("wrong".into());
        let announcer = site.announce(1, wrong).unwrap();
        let status = wait_status(&announcer, "the password is an error", |it| {
            let error = it.last_error.as_deref().unwrap_or_default();
            error.contains("both sides have the same password")
        });
        let error = status.unwrap().last_error.unwrap();
        assert!(!error.contains("wrong"), "the password is shown: {error}");
    });
}

#[test]
fn ttl_security_works_and_is_required() {
    let plan = RouterPlan {
        ttl_security: true,
        ..RouterPlan::default()
    };
    with_routers("TTL security", &plan, |_, site| {
        let secured = |peer: &mut PeerPlan| peer.ttl_security = true;
        let announcer = site.announce(0, secured).unwrap();
        announcer.announce(&vips(), &[]).unwrap();
        wait_established(&announcer).unwrap();
        site.wait_routed(&[0]).unwrap();
        // What this node sends before the router has accepted the connection still counts there, so the
        // session may seem established here until the router's hold timer expires. Its routes never count.
        let other = site.announce(1, |_| {}).unwrap();
        other.announce(&vips(), &[]).unwrap();
        wait_status(&other, "the session has failed", |it| {
            it.last_error.is_some()
        })
        .unwrap();
        site.wait_routed(&[0]).unwrap();
        wait_established(&announcer).unwrap();
    });
}

#[test]
fn a_node_requires_ttl_255_as_well() {
    with_routers("TTL security here", &RouterPlan::default(), |_, site| {
        // The router sends TTL 1, which the node's kernel drops.
        let secured = |peer: &mut PeerPlan| peer.ttl_security = true;
        let announcer = site.announce(0, secured).unwrap();
        wait_status(&announcer, "TTL security is named", |it| {
            assert_ne!(it.state, "Established", "{it:?}");
            let error = it.last_error.as_deref().unwrap_or_default();
            error.contains("TTL security") || error.contains("no reply")
        })
        .unwrap();
    });
}

#[test]
fn a_wrong_as_is_named() {
    with_routers("wrong AS", &RouterPlan::default(), |_, site| {
        let wrong = |peer: &mut PeerPlan| peer.remote_as = 64999;
        let announcer = site.announce(0, wrong).unwrap();
        wait_status(&announcer, "the AS of the peer is an error", |it| {
            let error = it.last_error.as_deref().unwrap_or_default();
            error.contains("the peer's AS is 65000, configured is 64999")
        })
        .unwrap();
        let wrong = |peer: &mut PeerPlan| peer.local_as = 64999;
        let announcer = site.announce(1, wrong).unwrap();
        wait_status(&announcer, "the own AS is an error", |it| {
            let error = it.last_error.as_deref().unwrap_or_default();
            error.contains("Bad Peer AS (2/2)")
        })
        .unwrap();
    });
}
