//! What the examples have in common.
#![allow(dead_code, reason = "no example needs all of it")]

use kerolox_client::admin::wire::{UpdateGroupRequest, UpdateTopicRequest};
use kerolox_client::{Client, Message, Result};

/// The access point that the command line names, else that of the quickstart.
pub(crate) fn endpoint() -> String {
    std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9876".to_owned())
}

/// A client of [`endpoint`].
pub(crate) fn client() -> Result<Client> {
    Client::builder(endpoint()).build()
}

/// Makes a topic on all brokers; `takes` is what RocketMQ calls its message type. As `mqadmin updateTopic` does.
pub(crate) async fn topic(client: &Client, name: &str, takes: &str) -> Result<()> {
    let admin = client.admin();
    for master in admin.masters(None).await? {
        let request = UpdateTopicRequest {
            name: name.to_owned(),
            attributes: vec![format!("+message.type={takes}")],
            ..Default::default()
        };
        admin.broker(&master.address).update_topic(request).await?;
    }
    Ok(())
}

/// Makes a consumer group on all brokers, as `mqadmin updateSubGroup` does.
pub(crate) async fn group(client: &Client, name: &str, is_fifo: bool, attributes: &[&str]) -> Result<()> {
    let admin = client.admin();
    for master in admin.masters(None).await? {
        let request = UpdateGroupRequest {
            name: name.to_owned(),
            fifo: Some(is_fifo),
            attributes: attributes.iter().map(|text| (*text).to_owned()).collect(),
            ..Default::default()
        };
        admin.broker(&master.address).update_group(request).await?;
    }
    Ok(())
}

/// The body of a message that is a text.
pub(crate) fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}
