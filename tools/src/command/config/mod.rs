//! Topics and consumer groups in a file: `apply` makes a cluster like it, `configExport` writes one. `addBrokerGroup` makes those
//! of other broker groups on one.

mod add_group;
mod apply;
mod backup;
mod export;
mod file;
mod plan;

pub(crate) use add_group::AddBrokerGroup;
pub(crate) use apply::Apply;
pub(crate) use backup::{
    BackupConfig, ExportConfigs, ExportMetrics, Restore, UpdateSubGroupList, UpdateTopicList,
};
pub(crate) use export::ConfigExport;
