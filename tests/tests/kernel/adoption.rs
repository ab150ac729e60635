//! A controller adopts the tables that another one has filled.

use lb_common::{
    family,
    vip::{VipKey, target},
};
use lb_daemon::reconciler::Reconciler;
use lb_dataplane::{Dataplane, Opened};

use crate::{
    host::{Bpffs, in_network_namespace},
    reconciler::{THREE, VIP, config, member_index, options, routes, snapshot},
};

#[test]
fn adoption_changes_nothing() {
    in_network_namespace(|| {
        let bpffs = Bpffs::new();
        let pins = bpffs.pins();
        let config = config(THREE);
        let (before, index) = {
            let (mut dataplane, opened) = Dataplane::open(&options(&config), &pins).unwrap();
            assert_eq!(opened, Opened::Fresh);
            let mut controller = Reconciler::fresh();
            let routes = routes(&mut dataplane);
            controller
                .apply_with_routes(&mut dataplane, &config, routes)
                .unwrap();
            // A ring in transition, and a removed member.
            let two = self::config(&THREE[..2]);
            controller.apply(&mut dataplane, &two).unwrap();
            (snapshot(&dataplane), member_index(&mut controller, "b1"))
        };
        let (mut dataplane, opened) = Dataplane::open(&options(&config), &pins).unwrap();
        assert_eq!(opened, Opened::Adopted);
        // As left by a controller that did not record the protocols of an address.
        let address = VipKey::new(&lb_common::address_v4(VIP), family::V4, 0, 0);
        let meaning = target::pack(target::ADDRESS, 0);
        dataplane.add_service(&address, meaning).unwrap();
        let mut controller = Reconciler::adopt(&mut dataplane).unwrap();
        assert_eq!(snapshot(&dataplane), before, "adopted");
        // No routes are known yet.
        let two = self::config(&THREE[..2]);
        let summary = controller.apply(&mut dataplane, &two).unwrap();
        assert_eq!(summary, lb_daemon::reconciler::Summary::default());
        assert_eq!(snapshot(&dataplane), before, "applied");
        assert_eq!(member_index(&mut controller, "b1"), index);
        let routes = routes(&mut dataplane);
        controller.set_routes(&mut dataplane, routes).unwrap();
        assert_eq!(snapshot(&dataplane), before, "routes known");
        assert!(
            controller
                .apply(&mut dataplane, &config)
                .unwrap()
                .slots_moved
                > 0
        );
        drop(dataplane);
        Dataplane::unload(&pins).unwrap();
    });
}
