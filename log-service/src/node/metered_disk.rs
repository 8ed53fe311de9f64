//! A disk that counts syncs and how long they take, around any other.
//!
//! * Everything else passes through.

use crate::disk::{Claim, Disk, DiskFile};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Counts syncs.
pub(super) struct MeteredDisk {
    inner: Arc<dyn Disk>,
    meters: Meters,
}

#[derive(Clone)]
struct Meters {
    syncs: Counter,
    seconds: Histogram,
}

struct MeteredFile {
    inner: Arc<dyn DiskFile>,
    meters: Meters,
}

impl MeteredDisk {
    /// Around this disk, counting in this registry.
    pub(super) fn new(inner: Arc<dyn Disk>, registry: &mut Registry) -> MeteredDisk {
        let meters =
            Meters { syncs: Counter::default(), seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)) };
        registry.register("duramen_log_fsyncs", "Syncs of files to the medium", meters.syncs.clone());
        registry.register("duramen_log_fsync_seconds", "How long they took", meters.seconds.clone());
        registry.register_collector(Box::new(Shortages(Arc::clone(&inner))));
        MeteredDisk { inner, meters }
    }
}

struct Shortages(Arc<dyn Disk>);

impl fmt::Debug for Shortages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Shortages")
    }
}

impl Collector for Shortages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Calls of the disk that waited because the system was short of descriptors or memory";
        let encoder = encoder.encode_descriptor("duramen_log_disk_shortages", help, None, MetricType::Counter)?;
        ConstCounter::new(self.0.shortages()).encode(encoder)
    }
}

impl Disk for MeteredDisk {
    fn create_dir_all(&self, folder: &Path) -> io::Result<()> {
        self.inner.create_dir_all(folder)
    }
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path, create)?;
        Ok(Arc::new(MeteredFile { inner, meters: self.meters.clone() }))
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename_new(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        self.inner.sync_dir(folder)
    }
    fn lock(&self, folder: &Path) -> io::Result<Claim> {
        self.inner.lock(folder)
    }
    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        self.inner.free_bytes(folder)
    }
    fn delay(&self) -> Duration {
        self.inner.delay()
    }
    fn short_since(&self) -> Option<Instant> {
        self.inner.short_since()
    }
    fn shortages(&self) -> u64 {
        self.inner.shortages()
    }
}

impl DiskFile for MeteredFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, position)
    }
    fn write_at(&self, slices: &[&[u8]], position: u64) -> io::Result<()> {
        self.inner.write_at(slices, position)
    }
    fn sync_data(&self) -> io::Result<()> {
        let begun = Instant::now();
        let result = self.inner.sync_data();
        self.meters.syncs.inc();
        self.meters.seconds.observe(begun.elapsed().as_secs_f64());
        result
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.inner.allocate(length)
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn is_named(&self, path: &Path) -> io::Result<bool> {
        self.inner.is_named(path)
    }
}
