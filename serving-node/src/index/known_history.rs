//! The history that a data folder is of, read before anything is opened.
//!
//! * In: a data folder. Out: what its marker says; nothing where there is no marker that can be read.
//! * Deliberately absent: whether the index may be used; `marker` judges that when it is opened.

use super::marker::Marker;
use duramen_common::HistoryId;
use std::path::Path;

/// The history of the index in this data folder, if there is one.
pub(crate) fn known_history(data_dir: &Path) -> Option<HistoryId> {
    let marker = Marker::read(&data_dir.join("index").join("marker.json")).ok()??;
    marker?.history.parse().ok()
}
