//! Encrypted connections.

use crate::{INVISIBLE, bodies, message};
use kerolox_client::{Client, Error, FilterExpression, RetryPolicy, Tls};
use kerolox_testkit::TestBroker;
use std::time::Duration;

fn client(broker: &TestBroker, tls: Tls) -> Client {
    Client::builder(broker.endpoint()).tls(tls).request_timeout(Duration::from_secs(2)).build().unwrap()
}

async fn send(client: &Client) -> Result<(), Error> {
    let producer = client.producer().retry_policy(RetryPolicy::never()).start().await?;
    producer.send(message("orders", "secret")).await.map(drop)
}

#[tokio::test]
async fn a_server_is_believed_only_with_the_certificate_that_is_expected() {
    let broker = TestBroker::start().unwrap();
    let certificate = std::fs::read(broker.data().join("tls/development-cert.pem")).unwrap();
    let trusting = Tls::trusting_pem(&certificate).unwrap();
    send(&client(&broker, trusting.clone())).await.unwrap();
    send(&client(&broker, Tls::unverified())).await.unwrap();
    let received = client(&broker, trusting.clone())
        .simple_consumer("billing")
        .subscribe("orders", FilterExpression::all())
        .start()
        .await
        .unwrap()
        .receive(8, INVISIBLE)
        .await
        .unwrap();
    assert!(bodies(&received).contains(&"secret"));

    let stranger = TestBroker::start().unwrap();
    let error = send(&client(&stranger, trusting.clone())).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("certificate")), "{error}");
    let elsewhere = trusting.server_name("elsewhere.example").unwrap();
    let error = send(&client(&broker, elsewhere)).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("certificate")), "{error}");
}
