//! Topics: create, change, delete, list, status, route.

mod delete;
mod list;
mod perm;
mod route;
mod status;
mod update;
mod view;

pub(crate) use delete::DeleteTopic;
pub(crate) use list::TopicList;
pub(crate) use perm::{TopicClusterList, UpdateTopicPerm};
pub(crate) use route::TopicRoute;
pub(crate) use status::TopicStatus;
pub(crate) use update::UpdateTopic;
pub(crate) use view::type_name;
