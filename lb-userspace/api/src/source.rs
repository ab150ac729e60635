//! Sources of members: what `backends_from` names.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use utoipa::ToSchema;

/// A source of members, and what it named last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceStatus {
    /// The source as `backends_from` has it, as in `dns:api.example.com:8080`.
    pub source: String,
    /// Which addresses of the name are asked for: `ipv4`, `ipv6` or `both`.
    pub families: String,
    /// The VIPs that use it.
    pub vips: Vec<String>,
    /// Its members, in the order in which they came.
    pub members: Vec<SourceMember>,
    /// Time of its last answer, or when its members were last set. Missing before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<Timestamp>,
    /// Failures in a row since then.
    pub failures: u32,
    /// Why there is no newer answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether it fails for so long that the alert `source_failing` fires.
    pub failing: bool,
    /// Members that its last answer does not name and that are still there, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// A member of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceMember {
    /// Name of the backend.
    pub name: String,
    /// Address of the backend.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Port of the backend. Missing: the VIP's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Weight, as the source has it.
    pub weight: u32,
    /// State, as the source has it.
    pub state: MemberIntent,
    /// Whether the source no longer names it, and it is drained and then removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// The state that is wanted of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberIntent {
    /// It gets new flows.
    #[default]
    Up,
    /// It keeps its flows and gets no new ones.
    Drain,
    /// It gets no packets.
    Disabled,
}

/// The members of the source `api:NAME`: they replace those that it has.
/// A list of members alone is accepted as well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct SetSourceRequest {
    /// All members.
    #[schema(max_items = 4096)]
    pub members: Vec<NewMember>,
    /// Whether an empty list is meant: it takes the VIPs that use the source out of service.
    #[schema(default = false, required = false)]
    pub allow_empty: bool,
}

impl<'de> Deserialize<'de> for SetSourceRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListOrObject)
    }
}

/// Reads a [`SetSourceRequest`]. An untagged enum would not say what is wrong.
struct ListOrObject;

impl<'de> Visitor<'de> for ListOrObject {
    type Value = SetSourceRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of members, or an object with `members`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<SetSourceRequest, A::Error> {
        let members = Deserialize::deserialize(SeqAccessDeserializer::new(list))?;
        Ok(SetSourceRequest {
            members,
            allow_empty: false,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SetSourceRequest, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Object {
            members: Vec<NewMember>,
            #[serde(default)]
            allow_empty: bool,
        }
        let Object {
            members,
            allow_empty,
        } = Object::deserialize(MapAccessDeserializer::new(map))?;
        Ok(SetSourceRequest {
            members,
            allow_empty,
        })
    }
}

/// A member to set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// Name of the backend. Missing: made of address and port, as in `10.0.0.7` or `10.0.0.7-8080`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Address of the backend.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Port of the backend. Missing: the VIP's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Weight; 100 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 65535)]
    pub weight: Option<u32>,
    /// State; `up` by default.
    #[serde(default)]
    pub state: MemberIntent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_set_by_a_list_or_an_object() {
        let read = serde_json::from_str::<SetSourceRequest>;
        let list = read(r#"[{ "address": "10.0.0.7", "weight": 5 }]"#).unwrap();
        assert_eq!((list.members[0].weight, list.allow_empty), (Some(5), false));
        let empty = read(r#"{ "members": [], "allow_empty": true }"#).unwrap();
        assert!(empty.members.is_empty() && empty.allow_empty);
        let json = serde_json::to_string(&list).unwrap();
        assert_eq!(read(&json).unwrap(), list);
        for (text, has) in [
            ("5", "a list of members, or an object with `members`"),
            (r#"[{ "address": "10.0.0" }]"#, "invalid IP address"),
            (r#"[{ "adress": "10.0.0.7" }]"#, "unknown field `adress`"),
            (
                r#"{ "members": [], "allow": true }"#,
                "unknown field `allow`",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(has), "{text}: {error}");
        }
    }
}
