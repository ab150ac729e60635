//! Secrets in texts, however they are written.

use proptest::prelude::*;

use super::*;

const SEED: &str = "000102030405060708090a0b0c0d0e0f";

/// Texts that hold the seed, some in two halves.
fn texts_with_the_seed() -> Vec<String> {
    let (high, low) = SEED.split_at(16);
    vec![
        format!("[node]\nhash_seed = \"{SEED}\" # mine\nport = 443\n"),
        format!("[node]\nhash_seed='{SEED}'\n"),
        format!("node.hash_seed = \"{SEED}\"\n"),
        format!("node = {{ hash_seed = \"{SEED}\" }}\n"),
        format!("node = {{ hash_seed = \"{high}\", x = 1, webhook_secret = \"{low}\" }}\n"),
        format!("\"node\".\"hash\\u005fseed\" = \"{SEED}\"\n"),
        format!("\"node\".'hash_seed' = \"{high}\"\n# hash_seed = \"{SEED}\"\n"),
        format!("[node]\nhash_seed = \"\"\"\n{SEED}\"\"\"\n"),
        format!("[node]\nhash_seed = \"\"\"{high}\\\n  {low}\"\"\"\n"),
        format!("[node]\nhash_seed = '''\n{high}\n{low}'''\n"),
        format!("[node]\nhash_seed = [\"{high}\", \"{low}\"]\n"),
        format!("[node]\nhash_seed = [\n  \"{high}\",\n  \"{low}\",\n]\n"),
        format!("[[node]]\nhash_seed = \"{high}\"\n[[node]]\nhash_seed = \"{low}\"\n"),
        format!("[node.hash_seed]\na = \"{high}\"\nb = \"{low}\"\n"),
        format!("[vip.alerts]\nwebhook_secret = \"{high}\"\nhash_seed = \"{low}\"\n"),
        format!("# old: {SEED}\n[node]\n"),
        format!("[node]\nhash_sed = \"{SEED}\"\n"),
        // Not TOML.
        format!("not toml = = {SEED}"),
        format!("[node\nhash_seed = \"{high}\"\nhash_seed = \"{low}\"\n"),
        format!("[node]\nhash_seed = \"{SEED}00\" x\n"),
        format!("[node]\nhash_seed = \"{high}, {low}\n"),
        format!("[node]\nhash_seed = {high} {low}\n"),
        format!("[node]\nhash_seed = \"\"\"{high}\\\n  {low}\"\"\"\nx = = 1\n"),
        format!("[node]\nhash_seed = \"\"\"{high}\\\n  {low}\n"),
        format!("[node]\nhash_seed = [\"{high}\",\n\"{low}\"]\nx = = 1\n"),
        format!("[node]\nhash_seed: {high}, {low}\n"),
        format!("# hash_seed = \"{high}\"\n# webhook_secret = \"{low}\"\nx = = 1\n"),
    ]
}

fn shows_the_seed(text: &str) -> bool {
    let (high, low) = SEED.split_at(16);
    text.contains(high) || text.contains(low)
}

#[test]
fn masks_the_seed_however_it_is_written() {
    for text in texts_with_the_seed() {
        let masked = mask(&text);
        assert!(!shows_the_seed(&masked), "{text}\n{masked}");
        assert!(masked.contains(MASK), "{masked}");
        let starred = star(&text);
        assert!(!shows_the_seed(&starred), "{text}\n{starred}");
        assert_eq!(starred.len(), text.len());
    }
}

#[test]
fn masks_nothing_else_in_valid_texts() {
    for text in [
        "[node]\nhash_seed_file = \"seed\"\ninterfaces = [\"eth0\"]\n# 2001:db8::feed:cafe\n",
        "[node]\nhash_seed_file = \"/etc/seed-20240101\"\n",
        "[health]\ncommand = [\"check\", \"hash_seed = short\"]\n",
    ] {
        assert_eq!(mask(text), text);
    }
    let text = format!("[node]\nhash_seed = \"{SEED}\" # mine\nsample = 1024\n");
    let masked = "[node]\nhash_seed = \"********\" # mine\nsample = 1024\n";
    assert_eq!(mask(&text), masked);
}

const TOKEN: &str = "T0-4711";

#[test]
fn masks_tokens_of_urls_however_they_are_written() {
    for text in [
        "[alerts]\nwebhook = [\"https://h.example/services/T0-4711\"]\n",
        "[alerts]\nwebhook = [\n  'https://h.example:8443?key=T0-4711', # mine\n  \"http://[::1]:9/T0-4711\",\n]\n",
        "alerts = { alertmanager = [\"https://eve:T0-4711@am.example/\"] }\n",
        "alerts.webhook = [\"\"\"https://h.example/a?b=\\\n  T0-4711\"\"\"]\n",
        "[alerts]\nwebhook = [\"https://h.example\\u002fT0-4711\", \"https\\u003a//h/T0-4711\"]\n",
        "[alerts]\n# webhook = [\"https://h.example/T0-4711\"]\n",
        "[alerts]\nwebhook = [\n  # \"https://old.example/T0-4711\",\n  \"https://h.example\",\n]\n",
        // Not TOML.
        "[alerts]\nwebhook = [\"https://h.example/T0-4711\nx = = 1\n",
        "alerts\nwebhook: https://h.example/T0-4711\n",
        "[alerts]\nwebhook = [\n  \"https://h.example/T0-4711\",\nx = = 1\n",
    ] {
        for shown in [mask(text), star(text), mask_pair("", text).1] {
            assert!(!shown.contains(TOKEN), "{text}\n{shown}");
        }
        assert_eq!(star(text).len(), text.len());
    }
}

#[test]
fn a_masked_url_keeps_its_host() {
    for (url, shown) in [
        ("https://h.example/hook?x=1", "https://h.example/********"),
        (
            "https://a:b@h.example:8443?x",
            "https://********@h.example:8443********",
        ),
        ("http://[::1]:9093/", "http://[::1]:9093/"),
        ("http://am.example", "http://am.example"),
    ] {
        assert_eq!(mask_url(url), shown);
    }
    let text = "[alerts]\nwebhook_secret_file = \"/etc/x\" # https://docs.example/x\n";
    assert_eq!(mask(text), text);
}

#[test]
fn masked_urls_are_put_back_and_differ_in_a_diff() {
    let text = |a: &str, b: &str| {
        format!("[alerts]\nwebhook = [\"https://h/{a}\", \"https://h/{b}\"]\nresend = \"9s\"\n")
    };
    let running = text("one", "two");
    let shown = mask(&running);
    assert_eq!(shown, text(MASK, MASK));
    let edited = |text: &str| text.replace("9s", "10s");
    assert_eq!(restore(&edited(&shown), &running), edited(&running));
    let ambiguous = text("new", MASK);
    assert_eq!(
        restore(&ambiguous, &running),
        ambiguous,
        "which of the two?"
    );
    let unknown = "[alerts]\nwebhook = [\"https://other/********\"]\n";
    assert_eq!(restore(unknown, &running), unknown);
    let (old, new) = mask_pair(&running, &text("one", "three"));
    assert!(old != new && !new.contains("three"), "{new}");
    assert_eq!(mask_pair(&running, &running).1, shown);
}

#[test]
fn stars_keep_everything_in_place() {
    let text =
        "[node]\nhash_seed_file = \"seed\"\nhash_seed = \"00ff\" # mine\nnode.hash_seed='é1'";
    let starred =
        "[node]\nhash_seed_file = \"seed\"\nhash_seed = \"****\" # mine\nnode.hash_seed='***'";
    assert_eq!(star(text), starred);
    assert_eq!(text.len(), starred.len());
    let text = format!("hash_sed = \"{SEED}\"\nport = 443");
    let starred = format!("hash_sed = \"{}\"\nport = 443", "*".repeat(32));
    assert_eq!(star(&text), starred);
}

#[test]
fn a_diff_shows_whether_the_seed_differs() {
    let text = |seed: &str| format!("[node]\nhash_seed = \"{seed}\"\n");
    let (a, b) = mask_pair(&text(SEED), &text(&SEED.to_uppercase()));
    assert_eq!(a, b);
    let (a, b) = mask_pair(&text(SEED), &text(&SEED.replace('0', "f")));
    assert_ne!(a, b);
    assert!(!b.contains("f1f2"), "{b}");
}

#[test]
fn a_masked_text_gets_its_seed_back() {
    let running = format!("[node]\nhash_seed = \"{SEED}\"\nsample = 1\n");
    let shown = mask(&running).replace("sample = 1", "sample = 2");
    assert!(!shown.contains("0001020304"), "{shown}");
    let back = running.replace("sample = 1", "sample = 2");
    assert_eq!(restore(&shown, &running), back);
    let other = running.replace("0001", "ffff");
    assert_eq!(restore(&other, &running), other, "keeps a seed of its own");
    assert_eq!(restore("no toml [", &running), "no toml [");
}

#[test]
fn hostile_texts_take_linear_time() {
    for unit in [
        "hash_seed=[",
        "hash_seed=\"\"\"",
        "hash_seed=\"",
        "hash_seed ",
        "webhook=[",
        "webhook = \"\"\"https://",
    ] {
        let text = unit.repeat(100_000);
        let begun = std::time::Instant::now();
        assert_eq!(star(&text).len(), text.len());
        assert!(begun.elapsed().as_secs() < 10, "{unit}");
    }
}

proptest! {
    #[test]
    fn texts_broken_anywhere_keep_their_places(
        text in prop::sample::select(texts_with_the_seed()),
        at in any::<prop::sample::Index>(),
        inserted in "[\\[\\]{}\"'=#,\\\\\n é]{0,3}",
    ) {
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let at = ends[at.index(ends.len())];
        let broken = format!("{}{inserted}{}", &text[..at], &text[at..]);
        prop_assert_eq!(star(&broken).len(), broken.len());
        prop_assert!(!mask(&broken).contains(SEED));
    }
}
