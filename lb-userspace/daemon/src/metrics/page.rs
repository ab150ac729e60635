//! Encodes the metrics page with the crate `prometheus`.
//!
//! The page is written family by family, so that the hundred thousand samples of a large node are never
//! in memory at once. Labels shared by many families (those of the members) are built once and lent to
//! one family after the other: copying them would take longer than writing them.

use prometheus::{
    TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use tracing::error;

use super::family::{Family, Kind};

#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    encoder: TextEncoder,
}

/// The samples of a family.
pub(super) struct Samples {
    family: &'static Family,
    metrics: Vec<Metric>,
}

/// Labels with values, shared by several families.
pub(super) type Labels = Vec<LabelPair>;

pub(super) fn labels(names: &[&str], values: &[&str]) -> Labels {
    debug_assert_eq!(names.len(), values.len());
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    names.iter().zip(values).map(pair).collect()
}

impl Samples {
    /// Adds a sample; `values` are those of the family's labels, in order.
    pub(super) fn add(&mut self, values: &[&str], value: f64) {
        self.labelled(labels(self.family.labels, values), value);
    }

    fn labelled(&mut self, labels: Labels, value: f64) {
        let mut metric = Metric::from_label(labels);
        match self.family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }
}

impl Page {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            encoder: TextEncoder::new(),
        }
    }

    /// Writes a family, unless it has no samples.
    pub(super) fn family(&mut self, family: &'static Family, fill: impl FnOnce(&mut Samples)) {
        let mut samples = Samples {
            family,
            metrics: Vec::new(),
        };
        fill(&mut samples);
        self.write(samples);
    }

    /// Writes a family with at most one sample per row. Borrows the labels of the rows and gives them
    /// back.
    pub(super) fn rows<Row>(
        &mut self,
        family: &'static Family,
        rows: &mut [(Labels, Row)],
        value: impl Fn(&Row) -> Option<f64>,
    ) {
        let mut samples = Samples {
            family,
            metrics: Vec::with_capacity(rows.len()),
        };
        let mut lenders = Vec::with_capacity(rows.len());
        for (labels, row) in rows {
            if let Some(value) = value(row) {
                samples.labelled(std::mem::take(labels), value);
                lenders.push(labels);
            }
        }
        let metrics = self.write(samples);
        for (labels, mut metric) in lenders.into_iter().zip(metrics) {
            *labels = metric.take_label();
        }
    }

    /// Writes a family with one sample and no labels.
    pub(super) fn single(&mut self, family: &'static Family, value: f64) {
        self.family(family, |samples| samples.add(&[], value));
    }

    fn write(&mut self, samples: Samples) -> Vec<Metric> {
        let Samples { family, metrics } = samples;
        if metrics.is_empty() {
            return metrics;
        }
        let mut written = MetricFamily::default();
        written.set_name(family.name.to_owned());
        written.set_help(family.help.to_owned());
        written.set_field_type(match family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        });
        written.set_metric(metrics);
        // Fails only for families without a name or a sample, which do not exist here.
        if let Err(error) = self
            .encoder
            .encode_utf8(std::slice::from_ref(&written), &mut self.text)
        {
            error!(family = family.name, %error, "cannot encode a metric");
        }
        written.take_metric()
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::family::{MEMBER_PACKETS, MEMBER_STATE},
        *,
    };

    #[test]
    fn several_families_share_labels() {
        let named = |name: &str| labels(MEMBER_STATE.labels, &[name, "a \"VIP\"\n"]);
        let mut rows = vec![(named("a"), 1.5), (named("b"), -1.0), (named("c"), 7.0)];
        let mut page = Page::default();
        page.rows(MEMBER_STATE, &mut rows, |value| {
            (*value > 0.0).then_some(*value)
        });
        page.rows(MEMBER_PACKETS, &mut rows, |value| Some(value.abs()));
        page.rows(MEMBER_PACKETS, &mut rows, |_| None);
        let text = page.into_text();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            r#"evenkeel_member_state{backend="a",vip="a \"VIP\"\n"} 1.5"#,
            r#"evenkeel_member_state{backend="c",vip="a \"VIP\"\n"} 7"#,
            r#"evenkeel_member_packets_total{backend="a",vip="a \"VIP\"\n"} 1.5"#,
            r#"evenkeel_member_packets_total{backend="b",vip="a \"VIP\"\n"} 1"#,
            r#"evenkeel_member_packets_total{backend="c",vip="a \"VIP\"\n"} 7"#,
        ];
        assert_eq!(samples, expected, "{text}");
    }
}
