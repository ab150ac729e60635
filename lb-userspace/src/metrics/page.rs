//! The text that Prometheus reads.

use prometheus::{
    TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::family::{Family, Kind};

/// A page that is being written, one family after the other.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

/// The samples of a family.
pub(super) struct Samples {
    family: &'static Family,
    metrics: Vec<Metric>,
}

impl Samples {
    /// A sample; `labels` are the values of the family's labels, in their order.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        debug_assert_eq!(
            labels.len(),
            self.family.labels.len(),
            "{}",
            self.family.name
        );
        let pairs = self.family.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
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
        }
    }

    /// Writes a family; one without samples is left out.
    pub(super) fn family(&mut self, family: &'static Family, fill: impl FnOnce(&mut Samples)) {
        let mut samples = Samples {
            family,
            metrics: Vec::new(),
        };
        fill(&mut samples);
        if samples.metrics.is_empty() {
            return;
        }
        let mut written = MetricFamily::default();
        written.set_name(family.name.to_owned());
        written.set_help(family.help.to_owned());
        written.set_field_type(match family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        });
        written.set_metric(samples.metrics);
        // It fails only for families without samples or names.
        let encoded = TextEncoder::new().encode_utf8(&[written], &mut self.text);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
    }

    /// Writes a family with one sample and no labels.
    pub(super) fn single(&mut self, family: &'static Family, value: f64) {
        self.family(family, |samples| samples.add(&[], value));
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}
