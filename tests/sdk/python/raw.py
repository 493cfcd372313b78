"""The SDK's generated stubs over a bare gRPC channel, for what the SDK itself would never send."""

import grpc
from rocketmq.grpc_protocol import definition_pb2 as definition
from rocketmq.grpc_protocol import service_pb2 as service
from rocketmq.grpc_protocol.service_pb2_grpc import MessagingServiceStub


class RawClient:
    """Calls of MessagingService with full control of fields and headers."""

    def __init__(self, address, channel=None, headers=(("x-mq-client-id", "raw@1@0@test"),), timeout=5):
        self.channel = channel or grpc.insecure_channel(
            address, [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        )
        self.stub = MessagingServiceStub(self.channel)
        self.headers = headers
        self.timeout = timeout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def call(self, rpc, request):
        return getattr(self.stub, rpc)(request, metadata=self.headers, timeout=self.timeout)

    def query_route(self, topic):
        return self.call("QueryRoute", service.QueryRouteRequest(topic=resource(topic)))

    def send(self, *messages):
        return self.call("SendMessage", service.SendMessageRequest(messages=messages))

    def send_bytes(self, *messages):
        """A send of encoded messages, whatever they are; fewer than 128 bytes each."""
        send = self.channel.unary_unary(
            "/apache.rocketmq.v2.MessagingService/SendMessage",
            response_deserializer=service.SendMessageResponse.FromString,
        )
        request = b"".join(b"\x0a" + bytes([len(message)]) + message for message in messages)
        return send(request, metadata=self.headers, timeout=self.timeout)

    def receive(self, topic, group, invisible=10, poll=2, queue=0, broker="broker-a", batch=16, expression="*"):
        """(status, messages) of one ReceiveMessage; durations in seconds."""
        request = service.ReceiveMessageRequest(
            group=resource(group),
            message_queue=definition.MessageQueue(
                topic=resource(topic), id=queue, broker=definition.Broker(name=broker)
            ),
            filter_expression=definition.FilterExpression(type=definition.FilterType.TAG, expression=expression),
            batch_size=batch,
        )
        request.invisible_duration.FromMilliseconds(int(invisible * 1000))
        request.long_polling_timeout.FromMilliseconds(int(poll * 1000))
        status, messages = None, []
        items = self.stub.ReceiveMessage(request, metadata=self.headers, timeout=poll + self.timeout)
        for item in items:
            if item.HasField("status"):
                status = item.status
            elif item.HasField("message"):
                messages.append(item.message)
        assert status is not None, "a ReceiveMessage stream must carry a status"
        return status, messages

    def ack(self, topic, group, handle, message_id="0" * 34):
        return self.call("AckMessage", service.AckMessageRequest(
            topic=resource(topic), group=resource(group),
            entries=[service.AckMessageEntry(message_id=message_id, receipt_handle=handle)],
        ))

    def change_invisible(self, topic, group, handle, seconds, message_id="0" * 34):
        request = service.ChangeInvisibleDurationRequest(
            topic=resource(topic), group=resource(group), receipt_handle=handle, message_id=message_id,
        )
        request.invisible_duration.FromMilliseconds(int(seconds * 1000))
        return self.call("ChangeInvisibleDuration", request)

    def end_transaction(self, topic, transaction_id, resolution, message_id="0" * 34):
        return self.call("EndTransaction", service.EndTransactionRequest(
            topic=resource(topic), message_id=message_id, transaction_id=transaction_id, resolution=resolution,
        ))


def resource(name):
    return definition.Resource(name=name)


def message(topic, body=b"body", message_id="01" + "0" * 32, message_type=definition.MessageType.NORMAL, **system):
    """A message as an SDK would build it; keyword arguments go to its system properties."""
    built = definition.Message(topic=resource(topic), body=body)
    built.system_properties.message_id = message_id
    built.system_properties.message_type = message_type
    built.system_properties.body_encoding = definition.Encoding.IDENTITY
    built.system_properties.born_timestamp.GetCurrentTime()
    built.system_properties.born_host = "127.0.0.1"
    for name, value in system.items():
        field = getattr(built.system_properties, name)
        if hasattr(field, "extend"):
            field.extend(value)
        else:
            setattr(built.system_properties, name, value)
    return built
