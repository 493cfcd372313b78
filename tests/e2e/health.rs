//! What servers say of their health, over HTTP.

use std::path::Path;

use kerolox_client::Message;
use kerolox_harness::{HealthProbe, ServerProcess, built_program};

use crate::support::{body, broker, cluster_of, consume, message, receive_one, refusal, standalone};

fn ready(server: &ServerProcess) -> HealthProbe {
    server.probe("/readyz").unwrap()
}

#[tokio::test]
async fn servers_are_alive_and_ready() {
    let mut servers = cluster_of(1, &["broker-a"], &[]);
    for server in [&servers.nameservers[0], &servers.brokers[0]] {
        let alive = server.probe("/healthz").unwrap();
        assert!(alive.status == 200 && alive.body.contains("\"runtime\""), "{alive:?}");
        let ready = ready(server);
        assert!(ready.status == 200 && ready.body.contains("\"status\":\"ok\""), "{ready:?}");
        assert_eq!(server.probe("/").unwrap().status, 404);
    }
    servers.brokers[0].stop().unwrap();
    assert!(servers.brokers[0].probe("/readyz").is_err(), "the port is closed with the process");
}

/// A broker none of whose files may grow beyond some 3 MB: writing more fails, as on a broken disk. It is `broker-a` to
/// the harness, so that its data can be had by a broker without the limit.
fn limited(folder: &Path) -> ServerProcess {
    let program = built_program("broker").unwrap();
    // The limit counts blocks of 512 or 1024 bytes. The signal that comes with the error would end the process.
    let script = "trap '' XFSZ; ulimit -f 3000; exec \"$0\" \"$@\"";
    let arguments = ["-c", script, program.to_str().unwrap(), "--standalone", "--group", "broker-a"];
    ServerProcess::new("broker-a", Path::new("/bin/sh"), folder, &arguments)
        .env("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "1MiB")
}

#[tokio::test]
async fn a_failed_write_is_sticky_and_health_says_so() {
    let mut servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    servers.brokers[0].stop().unwrap();
    let mut limited = limited(servers.folder());
    limited.start().unwrap();
    servers.brokers[0] = limited;
    let broker = &servers.brokers[0];
    assert_eq!(ready(broker).status, 200);
    let producer = servers.client().producer().start().await.unwrap();
    producer.send(message("orders", "first")).await.unwrap();
    let consumer = servers.consumer("billing", "orders").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["first"]);
    producer.send(message("orders", "kept")).await.unwrap();

    let huge = Message::builder("orders").body(vec![7; 7 << 19]).build();
    refusal(producer.send(huge).await);
    let told = ready(broker);
    assert_eq!(told.status, 503, "{told:?}");
    assert!(told.body.contains("read-only") && told.body.contains("restart"), "{told:?}");
    assert_eq!(broker.probe("/healthz").unwrap().status, 200, "the process is well");
    refusal(producer.send(message("orders", "small, but the log has failed")).await);
    assert_eq!(ready(broker).status, 503, "it stays so");
    producer.shutdown().await;

    // What was acknowledged is readable all the same, and the next start writes again.
    assert_eq!(body(&receive_one(&consumer).await), "kept");
    servers.brokers[0].stop().unwrap();
    let mut unlimited = self::broker("broker-a", servers.folder(), &["--standalone"]);
    unlimited.start().unwrap();
    servers.brokers[0] = unlimited;
    assert_eq!(ready(&servers.brokers[0]).status, 200);
    let producer = servers.client().producer().start().await.unwrap();
    producer.send(message("orders", "stored")).await.unwrap();
}
