//! Texts in etcd: in parts, below their digests.

use crate::{
    digest,
    member::raw,
    records::{PART_BYTES, text_key},
    store::{Client, Write},
};

/// The writes of a text, one per part; and the number of parts.
pub(crate) fn parts(text: &str) -> Vec<Write> {
    let digest = digest(text);
    let bytes = text.as_bytes();
    // An empty text has one empty part.
    let count = bytes.len().div_ceil(PART_BYTES).max(1);
    let part = |index| {
        let from = index * PART_BYTES;
        let to = bytes.len().min(from + PART_BYTES);
        raw(text_key(&digest, index), bytes[from..to].to_vec())
    };
    (0..count).map(part).collect()
}

/// Reads a text. One that is incomplete or damaged is an error.
pub(crate) async fn fetch(client: &Client, wanted: &str) -> Result<String, String> {
    // `0` follows `/`.
    let (from, to) = (format!("texts/{wanted}/"), format!("texts/{wanted}0"));
    let listing = client.range(&from, &to, false).await?;
    let parts = listing.kvs.into_iter().map(|kv| kv.value);
    let bytes = parts.collect::<Vec<_>>().concat();
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| format!("the text {wanted} in etcd is damaged: not UTF-8"))?;
    if digest(&text) != wanted {
        return Err(format!(
            "the text {wanted} in etcd is missing or damaged: its digest is {}",
            digest(&text)
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_into_parts() {
        for (length, count) in [(0, 1), (1, 1), (PART_BYTES, 1), (PART_BYTES + 1, 2)] {
            let text = "x".repeat(length);
            let writes = parts(&text);
            assert_eq!(writes.len(), count, "{length}");
            let keys: Vec<&str> = writes.iter().map(Write::key).collect();
            assert!(keys.is_sorted());
        }
    }
}
