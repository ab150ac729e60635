//! The text that Prometheus reads.
//!
//! The crate `prometheus` copies every name and label of every sample, and a page has a hundred thousand
//! of them: that takes several times as long as all the rest. Here a line is written straight into the
//! page. That it is the same text is a test's to show, which writes a page with the crate.

use std::fmt::Write as _;

use super::family::{Family, Kind};

/// A page that is being written, one family after the other.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

/// The samples of a family.
pub(super) struct Samples<'p> {
    family: &'static Family,
    text: &'p mut String,
    is_empty: bool,
}

/// Labels as they are in the text, to be used for many samples.
#[derive(Debug)]
pub(super) struct Labels(String);

impl Labels {
    /// Of names and their values.
    pub(super) fn new(names: &[&str], values: &[&str]) -> Self {
        debug_assert_eq!(names.len(), values.len());
        let mut text = String::new();
        for (index, (name, value)) in names.iter().zip(values).enumerate() {
            text.push(if index == 0 { '{' } else { ',' });
            text.push_str(name);
            text.push_str("=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    letter => text.push(letter),
                }
            }
            text.push('"');
        }
        if !names.is_empty() {
            text.push('}');
        }
        Self(text)
    }
}

impl Samples<'_> {
    /// A sample; `labels` are the values of the family's labels, in their order.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        let labels = Labels::new(self.family.labels, labels);
        self.labelled(&labels, value);
    }

    /// A sample with labels that were made before, of the family's names.
    pub(super) fn labelled(&mut self, labels: &Labels, value: f64) {
        if self.is_empty {
            self.is_empty = false;
            self.begin();
        }
        self.text.push_str(self.family.name);
        self.text.push_str(&labels.0);
        self.text.push(' ');
        write_number(self.text, value);
        self.text.push('\n');
    }

    fn begin(&mut self) {
        let Family { name, help, .. } = self.family;
        let kind = match self.family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Help texts are ours: nothing in them has to be escaped.
        let header = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self.text.push_str(&header);
    }
}

/// Whole numbers are most of them, and quicker to write.
fn write_number(text: &mut String, value: f64) {
    const EXACT: f64 = (1_u64 << 53) as f64;
    let is_whole = value.fract() == 0.0 && value.is_sign_positive() && value <= EXACT;
    let written = if is_whole {
        write!(text, "{}", value as u64)
    } else {
        write!(text, "{value}")
    };
    debug_assert!(written.is_ok());
}

impl Page {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
        }
    }

    /// Writes a family; one without samples is left out.
    pub(super) fn family(&mut self, family: &'static Family, fill: impl FnOnce(&mut Samples<'_>)) {
        fill(&mut Samples {
            family,
            text: &mut self.text,
            is_empty: true,
        });
    }

    /// Writes a family with one sample and no labels.
    pub(super) fn single(&mut self, family: &'static Family, value: f64) {
        self.family(family, |samples| samples.add(&[], value));
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{
        TextEncoder,
        proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
    };
    use proptest::prelude::*;

    use super::{super::family::FAMILIES, *};

    /// A family as the crate writes it.
    fn by_the_crate(family: &'static Family, samples: &[(Vec<String>, f64)]) -> String {
        let mut written = MetricFamily::default();
        written.set_name(family.name.to_owned());
        written.set_help(family.help.to_owned());
        written.set_field_type(match family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        });
        let metric = |(values, number): &(Vec<String>, f64)| {
            let pairs = family.labels.iter().zip(values).map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(value.clone());
                pair
            });
            let mut metric = Metric::from_label(pairs.collect());
            let (mut counter, mut gauge) = (Counter::default(), Gauge::default());
            counter.set_value(*number);
            gauge.set_value(*number);
            match family.kind {
                Kind::Counter => metric.set_counter(counter),
                Kind::Gauge => metric.set_gauge(gauge),
            }
            metric
        };
        written.set_metric(samples.iter().map(metric).collect());
        TextEncoder::new().encode_to_string(&[written]).unwrap()
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>().prop_filter("a number", |number| !number.is_nan()),
            (0..=u64::MAX).prop_map(|number| number as f64),
            0.0..1.0,
            Just(0.0),
            Just(9_007_199_254_740_992.0),
            Just(-1.0),
        ]
    }

    proptest! {
        #[test]
        fn the_text_is_that_of_the_crate(
            family in 0..FAMILIES.len(),
            samples in prop::collection::vec((prop::collection::vec("\\PC{0,6}|[\\\\\"\n a]{0,6}", 5), number()), 1..4),
        ) {
            let family = FAMILIES[family];
            let mut page = Page::default();
            page.family(family, |s| {
                for (labels, value) in &samples {
                    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                    s.add(&labels[..family.labels.len()], *value);
                }
            });
            prop_assert_eq!(page.into_text(), by_the_crate(family, &samples));
        }
    }
}
