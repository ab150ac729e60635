//! ECN of decapsulated packets.

use lb_common::decap::decapsulated_ecn;

/// RFC 6040, figure 4: rows are the inner codepoint, columns the outer one.
#[test]
fn ecn_follows_rfc_6040() {
    const DROP: Option<u8> = None;
    let (not_ect, ect_1, ect_0, ce) = (0, 1, 2, 3);
    for (inner, expected) in [
        (not_ect, [Some(not_ect), Some(not_ect), Some(not_ect), DROP]),
        (ect_0, [Some(ect_0), Some(ect_0), Some(ect_1), Some(ce)]),
        (ect_1, [Some(ect_1), Some(ect_1), Some(ect_1), Some(ce)]),
        (ce, [Some(ce); 4]),
    ] {
        for (outer, expected) in [not_ect, ect_0, ect_1, ce].into_iter().zip(expected) {
            assert_eq!(
                decapsulated_ecn(outer, inner),
                expected,
                "outer {outer}, inner {inner}"
            );
        }
    }
}
