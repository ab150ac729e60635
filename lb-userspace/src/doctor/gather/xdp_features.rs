//! XDP features of drivers: the generic netlink family `netdev` (Linux 6.3, `linux/netdev.h`).

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
    NlasIterator, Parseable as _, ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{Socket, protocols::NETLINK_GENERIC};

/// `NETDEV_CMD_DEV_GET` and its attributes.
const GET_DEVICE: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;

/// Attributes of a device.
#[derive(Debug)]
struct Device(Vec<DefaultNla>);

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        GET_DEVICE
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(buffer: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(buffer).map(|nla| DefaultNla::parse(&nla?));
        attributes.collect::<Result<_, _>>().map(Self)
    }
}

impl Device {
    fn xdp_features(&self) -> Option<u64> {
        let features = self.0.iter().find(|nla| nla.kind() == XDP_FEATURES)?;
        let mut bytes = [0; 8];
        (features.value_len() == bytes.len()).then(|| features.emit_value(&mut bytes))?;
        Some(u64::from_ne_bytes(bytes))
    }
}

/// Returns the features of an interface ([`crate::doctor::xdp_feature`]); `None` if the kernel does not
/// report them.
pub(super) fn of(ifindex: u32) -> Option<u64> {
    let socket = Socket::new(NETLINK_GENERIC).ok()?;
    let family = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(Device::family_name().to_owned())],
    });
    let family = ask(&socket, family)?
        .nlas
        .into_iter()
        .find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(id),
            _ => None,
        });
    let index = DefaultNla::new(IFINDEX, ifindex.to_ne_bytes().to_vec());
    let mut device = GenlMessage::from_payload(Device(vec![index]));
    device.set_resolved_family_id(family?);
    ask(&socket, device)?.xdp_features()
}

/// Sends a request and returns the payload of the answer.
fn ask<F>(socket: &Socket, request: GenlMessage<F>) -> Option<F>
where
    F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + std::fmt::Debug,
{
    let mut request = NetlinkMessage::from(request);
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).ok()?;
    let mut answer = Vec::with_capacity(1 << 14);
    // The kernel answers before `send` returns.
    socket.recv(&mut answer, libc::MSG_DONTWAIT).ok()?;
    match NetlinkMessage::<GenlMessage<F>>::deserialize(&answer)
        .ok()?
        .payload
    {
        NetlinkPayload::InnerMessage(message) => Some(message.payload),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Option<Device> {
        let header = GenlHeader {
            cmd: GET_DEVICE,
            version: 1,
        };
        Device::parse_with_param(bytes, header).ok()
    }

    #[test]
    fn reads_the_features_attribute_and_rejects_broken_ones() {
        let name = DefaultNla::new(7, b"abcde".to_vec());
        let features = DefaultNla::new(XDP_FEATURES, 0x77_u64.to_ne_bytes().to_vec());
        let short = DefaultNla::new(XDP_FEATURES, vec![1, 2, 3, 4]);
        for (attributes, expected) in [
            (vec![name.clone(), features], Some(0x77)),
            (vec![name.clone(), short], None),
            (vec![name], None),
        ] {
            let device = Device(attributes);
            let mut bytes = vec![0; device.buffer_len()];
            device.emit(&mut bytes);
            assert_eq!(parsed(&bytes).unwrap().xdp_features(), expected);
        }
        assert!(parsed(&[0, 0, 1, 0]).is_none(), "no length: no loop");
        assert!(parsed(&[99, 0, 1, 0]).is_none());
    }

    #[test]
    fn asks_this_kernel_about_the_loopback_interface() {
        // Before Linux 6.3 there is no answer; with one, `lo` has no hardware offload.
        assert!(of(1).is_none_or(|features| features < 1 << 16));
        assert_eq!(of(u32::MAX), None);
    }
}
