//! Names of members: a backend within a VIP.

use anyhow::{Result, bail};

use lb_api::{MemberStatus, VipStatus};
use lb_model::{MemberRef, edit::hint};

/// The members of several VIPs, with their names.
pub(super) fn all(vips: &[VipStatus]) -> impl Iterator<Item = (MemberRef, &MemberStatus)> {
    vips.iter().flat_map(|vip| {
        let members = vip.members.iter();
        members.map(|member| (MemberRef::new(&vip.name, &member.backend), member))
    })
}

/// The argument `[VIP/]BACKEND`: `web/api-1`, or `api-1` for the backend in any VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendPath {
    pub(super) vip: Option<String>,
    pub(super) backend: String,
}

impl BackendPath {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (vip, backend) = match text.split_once('/') {
            Some((vip, backend)) => (Some(vip), backend),
            None => (None, text),
        };
        if backend.is_empty() || vip.is_some_and(str::is_empty) || backend.contains('/') {
            return Err("expected VIP/BACKEND or BACKEND".into());
        }
        Ok(Self {
            vip: vip.map(str::to_owned),
            backend: backend.into(),
        })
    }

    /// The matching members.
    pub(super) fn members<'a>(
        &'a self,
        vips: &'a [VipStatus],
    ) -> impl Iterator<Item = (MemberRef, &'a MemberStatus)> {
        all(vips).filter(|(name, _)| {
            name.backend == self.backend && self.vip.as_ref().is_none_or(|vip| *vip == name.vip)
        })
    }

    /// The only matching member.
    pub(super) fn only_member(&self, vips: &[VipStatus]) -> Result<MemberRef> {
        let backend = &self.backend;
        let mut names: Vec<MemberRef> = self.members(vips).map(|(name, _)| name).collect();
        names.dedup();
        match names.as_slice() {
            [name] => Ok(name.clone()),
            [] => {
                let mut names: Vec<String> = all(vips).map(|(name, _)| name.backend).collect();
                names.sort_unstable();
                names.dedup();
                bail!("no VIP has a backend `{backend}`{}", hint(backend, &names))
            }
            [first, ..] => {
                let vips: Vec<&str> = names.iter().map(|name| name.vip.as_str()).collect();
                let vips = vips.join(", ");
                bail!(
                    "backend `{backend}` is ambiguous: VIPs {vips} have it; name the VIP, as in `{}`",
                    first.path()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::fixtures, *};

    fn two_vips() -> Vec<VipStatus> {
        let mut vips = fixtures::status().vips;
        vips.push(VipStatus {
            name: "other".into(),
            ..vips[0].clone()
        });
        vips
    }

    #[test]
    fn parses_a_backend_with_or_without_its_vip() {
        let path = BackendPath::parse("web/api-1").unwrap();
        assert_eq!(
            (path.vip.as_deref(), path.backend.as_str()),
            (Some("web"), "api-1")
        );
        assert_eq!(BackendPath::parse("api-1").unwrap().vip, None);
        for wrong in ["", "/", "web/", "/api", "a/b/c"] {
            BackendPath::parse(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_backend_without_a_vip_must_be_unique() {
        let vips = two_vips();
        let only =
            |vips: &[VipStatus], path: &str| BackendPath::parse(path).unwrap().only_member(vips);
        assert_eq!(
            only(&vips[..1], "api-1").unwrap(),
            MemberRef::new("api", "api-1")
        );
        let error = only(&vips, "api-9").unwrap_err().to_string();
        assert!(
            error.contains("no VIP has a backend `api-9`; did you mean \"api-1\"?"),
            "{error}"
        );
        let error = only(&vips, "api-1").unwrap_err().to_string();
        assert!(
            error.contains("api, other") && error.contains("`api/api-1`"),
            "{error}"
        );
    }

    #[test]
    fn a_backend_without_a_vip_matches_in_every_vip() {
        let vips = two_vips();
        let count = |path: &str| BackendPath::parse(path).unwrap().members(&vips).count();
        assert_eq!(
            (count("api-1"), count("other/api-1"), count("x/api-1")),
            (2, 1, 0)
        );
    }
}
