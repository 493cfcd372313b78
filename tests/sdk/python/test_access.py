"""Every server is an access point, and one port serves plaintext and TLS."""

import os
import socket
import ssl
import subprocess
import sys

import grpc
import pytest

import sdk
from raw import RawClient, message


@pytest.fixture(params=["nameserver", "broker", "standalone"])
def access(request):
    """(cluster, address that the SDK is given)."""
    cluster = request.getfixturevalue("standalone" if request.param == "standalone" else "cluster")
    server = cluster.nameserver if request.param == "nameserver" else cluster.broker
    return cluster, server.address


def test_messages_and_transactions_through_each_access_point(access, clients):
    cluster, address = access
    topic, group = cluster.create_topic(), cluster.create_group()
    tx_topic = cluster.create_topic("TRANSACTION")
    consumer = clients.consumer(address, topic, group, await_duration=1)
    producer = clients.producer(address, topic)
    producer.send(sdk.new_message(topic, "normal"))
    assert sdk.bodies(sdk.receive(consumer, 1)) == ["normal"]

    checker = sdk.Checker({"check": [sdk.COMMIT]})
    tx_producer = clients.producer(address, tx_topic, checker)
    tx_consumer = clients.consumer(address, tx_topic, group, await_duration=1)
    sdk.send_half(tx_producer, sdk.new_message(tx_topic, "commit")).commit()
    sdk.send_half(tx_producer, sdk.new_message(tx_topic, "check"))
    assert sdk.bodies(sdk.receive(tx_consumer, 2, seconds=20)) == ["check", "commit"]


@pytest.mark.parametrize("server", ["nameserver", "broker"])
def test_the_same_port_answers_tls(cluster, server):
    address = getattr(cluster, server).address
    topic = cluster.create_topic()
    with RawClient(address) as plain, tls_client(address) as encrypted:
        expected = plain.query_route(topic)
        found = encrypted.query_route(topic)
        assert found.status.code == 20000
        assert [queue.id for queue in found.message_queues] == [queue.id for queue in expected.message_queues]


def test_messages_go_through_tls(cluster):
    topic = cluster.create_topic()
    with tls_client(cluster.broker.address) as client:
        answer = client.send(message(topic, b"encrypted"))
        assert answer.status.code == 20000, answer
        status, messages = client.receive(topic, cluster.create_group())
    assert [found.body for found in messages] == [b"encrypted"], status


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_negotiates_http_2(cluster, version):

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, port = cluster.broker.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as encrypted:
            assert encrypted.selected_alpn_protocol() == "h2"


def test_the_sdk_speaks_tls_with_the_certificate_trusted(cluster, tmp_path):
    """The SDK has no switch for a private authority; gRPC reads one from this variable, once per process."""
    topic, group = cluster.create_topic(), cluster.create_group()
    roots = tmp_path / "roots.pem"
    roots.write_bytes(certificate(cluster.broker.address))
    program = (
        "import sys, sdk\n"
        "from rocketmq import Producer, SimpleConsumer, FilterExpression\n"
        "address, topic, group = sys.argv[1:]\n"
        "producer = Producer(sdk.configuration(address), (topic,), tls_enable=True); producer.startup()\n"
        "producer.send(sdk.new_message(topic, 'encrypted'))\n"
        "consumer = SimpleConsumer(sdk.configuration(address), group, {topic: FilterExpression()}, 2,\n"
        "                          tls_enable=True)\n"
        "consumer.startup()\n"
        "print(sdk.bodies(sdk.receive(consumer, 1)), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, cluster.broker.address, topic, group],
        env={
            **os.environ,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(roots),
            "PYTHONPATH": os.path.dirname(sdk.__file__),
        },
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )
    assert done.stdout == "['encrypted']\n", done.stdout + done.stderr


def certificate(address):
    """The certificate that a server presents, as PEM."""
    host, port = address.rsplit(":", 1)
    return ssl.get_server_certificate((host, int(port)), timeout=5).encode()


def tls_client(address):
    credentials = grpc.ssl_channel_credentials(root_certificates=certificate(address))
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    return RawClient(address, grpc.secure_channel(address, credentials, options))
