//! The network between nodes: how long a message takes, whether it is lost, which links are cut. Pure but for its seed.
//!
//! * Links have a direction. A message is judged by the links at the moment of its arrival, as Maelstrom does.
//! * Messages between a client and a node are neither delayed nor lost.

use super::settings::{LatencyShape, Settings};
use crate::harness::rng::Rng;
use std::collections::BTreeSet;
use std::time::Duration;

/// A node's number, from 0 on.
pub type NodeIndex = usize;

/// No delay is longer than so many means.
const MEANS_MAX: f64 = 20.0;

/// Links that carry nothing: from, to.
pub type Cuts = BTreeSet<(NodeIndex, NodeIndex)>;

/// What decides each message's fate.
pub struct Weather {
    latency: Duration,
    shape: LatencyShape,
    loss: f64,
    rng: Rng,
}

impl Weather {
    /// The weather of a run.
    #[must_use]
    pub fn new(settings: &Settings, rng: Rng) -> Weather {
        Weather { latency: settings.latency, shape: settings.latency_shape, loss: settings.loss, rng }
    }

    /// How long the next message takes; `None`: it is lost.
    pub fn delay(&mut self) -> Option<Duration> {
        if unit(&mut self.rng) < self.loss {
            return None;
        }
        let means = match self.shape {
            LatencyShape::Constant => 1.0,
            LatencyShape::Uniform => 2.0 * unit(&mut self.rng),
            LatencyShape::Exponential => (-(1.0 - unit(&mut self.rng)).ln()).min(MEANS_MAX),
        };
        Some(self.latency.mul_f64(means))
    }
}

/// A number in 0.0..1.0.
pub fn unit(rng: &mut Rng) -> f64 {
    (rng.bits() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workbench::settings::Workload;

    fn weather(shape: LatencyShape, loss: f64) -> Weather {
        let settings = Settings {
            latency: Duration::from_millis(10),
            latency_shape: shape,
            loss,
            ..Settings::new(Workload::Echo, "none".into())
        };
        Weather::new(&settings, Rng::of_stream(1, 1))
    }

    #[test]
    fn delays_have_the_mean_that_was_asked_for() {
        for &shape in LatencyShape::ALL {
            let mut weather = weather(shape, 0.0);
            let sum: Duration = (0..10_000).map(|_| weather.delay().unwrap()).sum();
            let mean_ms = sum.as_secs_f64() * 1000.0 / 10_000.0;
            assert!((9.5..10.5).contains(&mean_ms), "{shape}: {mean_ms} ms");
        }
    }

    #[test]
    fn so_many_are_lost_as_asked_for() {
        let mut weather = weather(LatencyShape::Constant, 0.2);
        let lost = (0..10_000).filter(|_| weather.delay().is_none()).count();
        assert!((1_800..2_200).contains(&lost), "{lost}");
    }
}
