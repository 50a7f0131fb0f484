"""A Ticketrail client made of nothing but generated stubs: an idempotent producer and a consumer.

It publishes numbered messages while another thread consumes and acknowledges them, and ends with
status 0 when every message was seen and acknowledged. The channel gets the retry service config that
lies beside the protos, so a plain stub survives the death of a node: UNAVAILABLE is tried again, and
the producer's sequence makes that safe.
"""

import argparse
import queue
import sys
import threading
import time

import grpc
from google.protobuf import duration_pb2
from ticketrail.v1 import consumer_service_pb2 as consuming
from ticketrail.v1 import consumer_service_pb2_grpc as consuming_grpc
from ticketrail.v1 import message_pb2 as messages
from ticketrail.v1 import publisher_service_pb2 as publishing
from ticketrail.v1 import publisher_service_pb2_grpc as publishing_grpc

BATCH = 10
BATCH_PAUSE_S = 0.05
DEADLINE_S = 10


def connect(address, service_config):
    return grpc.insecure_channel(
        address,
        options=[
            ("grpc.service_config", service_config),
            ("grpc.enable_retries", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
        ],
    )


class AnyNode:
    """Calls a unary method on one node after the other until one answers."""

    def __init__(self, stubs):
        self.stubs = stubs
        self.turn = 0
        self.moves = 0

    def call(self, method, request, patience_s=30):
        end = time.monotonic() + patience_s
        while True:
            stub = self.stubs[self.turn % len(self.stubs)]
            try:
                return getattr(stub, method)(request, timeout=DEADLINE_S)
            except grpc.RpcError as error:
                again = error.code() in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                )
                if not again or time.monotonic() > end:
                    raise
                self.turn += 1
                self.moves += 1


def publish(nodes, queue_name, count):
    """Publishes `count` messages in order, each stored once whatever is repeated."""
    producer = nodes.call("OpenProducer", publishing.OpenProducerRequest(name="python"))
    sequence = producer.last_sequence + 1
    duplicates = 0
    for first in range(0, count, BATCH):
        items = [
            publishing.PublishItem(
                routing_key=queue_name,
                mandatory=True,
                message=messages.Message(
                    body=f"message {number}".encode(),
                    headers=[
                        messages.Header(
                            key="number", value=messages.HeaderValue(integer=number)
                        )
                    ],
                ),
            )
            for number in range(first, min(first + BATCH, count))
        ]
        request = publishing.PublishRequest(
            items=items,
            producer=publishing.ProducerSequence(
                producer_id=producer.producer_id,
                epoch=producer.epoch,
                first_sequence=sequence,
            ),
        )
        answer = nodes.call("Publish", request)
        duplicates += sum(result.duplicate for result in answer.results)
        sequence += len(items)
        time.sleep(BATCH_PAUSE_S)
    return duplicates


class Consumer:
    """Consumes over a stream; a broken stream is taken up again, on the next node, with its session."""

    def __init__(self, stubs, queue_name, count):
        self.stubs = stubs
        self.nodes = AnyNode(stubs)
        self.queue_name = queue_name
        self.wanted = count
        self.seen = {}
        self.streams = 0
        self.session = b""

    def run(self):
        while len(self.seen) < self.wanted:
            stub = self.stubs[self.streams % len(self.stubs)]
            self.streams += 1
            try:
                self.stream(stub)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    self.session = b""  # its grace is over: a new session
                elif error.code() not in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    grpc.StatusCode.ABORTED,
                ):
                    raise

    def stream(self, stub):
        frames = queue.Queue()
        frames.put(
            consuming.ConsumeRequest(
                open=consuming.ConsumeOpen(
                    queue=self.queue_name,
                    prefetch=50,
                    session_id=self.session,
                    lease_duration=duration_pb2.Duration(seconds=20),
                    consumer_name="python",
                )
            )
        )
        unanswered = {}
        settlements = 0
        answers = stub.Consume(iter(frames.get, None))
        try:
            for answer in answers:
                kind = answer.WhichOneof("frame")
                if kind == "opened":
                    self.session = answer.opened.session_id
                elif kind == "deliveries":
                    deliveries = answer.deliveries.deliveries
                    settlements += 1
                    unanswered[settlements] = deliveries
                    frames.put(acknowledge(deliveries))
                elif kind == "settled":
                    self.settled(answer.settled, unanswered)
                if len(self.seen) >= self.wanted:
                    return
        finally:
            frames.put(None)
            answers.cancel()
            self.settle_again([d for ds in unanswered.values() for d in ds])

    def settle_again(self, deliveries):
        """Whether an acknowledgement was done before its stream broke is not known: its receipt tells."""
        if not deliveries:
            return
        items = [
            consuming.SettleItem(receipt=d.receipt, kind=consuming.SETTLE_KIND_ACK)
            for d in deliveries
        ]
        request = consuming.SettleRequest(queue=self.queue_name, items=items)
        answer = self.nodes.call("Settle", request)
        for delivery, result in zip(deliveries, answer.results):
            # Anything else comes again.
            if result.outcome in (
                consuming.SETTLE_OUTCOME_OK,
                consuming.SETTLE_OUTCOME_ALREADY_SETTLED,
            ):
                self.seen[delivery.message.headers[0].value.integer] = delivery

    def settled(self, settled, unanswered):
        lost = {
            delivery_id
            for exception in settled.exceptions
            for delivery_id in range(
                exception.first_delivery_id, exception.last_delivery_id + 1
            )
            if exception.outcome != consuming.SETTLE_OUTCOME_ALREADY_SETTLED
        }
        for number in [n for n in unanswered if n <= settled.through_settlement]:
            for delivery in unanswered.pop(number):
                if delivery.delivery_id not in lost:
                    self.seen[delivery.message.headers[0].value.integer] = delivery


def acknowledge(deliveries):
    return consuming.ConsumeRequest(
        settlement=consuming.ConsumeSettlement(
            ranges=[
                consuming.SettleRange(
                    first_delivery_id=deliveries[0].delivery_id,
                    last_delivery_id=deliveries[-1].delivery_id,
                    kind=consuming.SETTLE_KIND_ACK,
                )
            ]
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", required=True, help="host:port,host:port,...")
    parser.add_argument("--queue", required=True)
    parser.add_argument("--messages", type=int, default=600)
    parser.add_argument("--service-config", required=True, help="a file")
    arguments = parser.parse_args()
    with open(arguments.service_config, encoding="utf-8") as file:
        service_config = file.read()
    channels = [connect(a, service_config) for a in arguments.endpoints.split(",")]
    nodes = AnyNode([publishing_grpc.PublisherServiceStub(c) for c in channels])
    stubs = [consuming_grpc.ConsumerServiceStub(c) for c in channels]
    consumer = Consumer(stubs, arguments.queue, arguments.messages)
    thread = threading.Thread(target=consumer.run, daemon=True)
    thread.start()
    duplicates = publish(nodes, arguments.queue, arguments.messages)
    thread.join(timeout=30)
    for number in range(arguments.messages):
        delivery = consumer.seen.get(number)
        if delivery is None or delivery.message.body != f"message {number}".encode():
            sys.exit(f"message {number} was not acknowledged as it was published: {delivery}")
    print(
        f"{arguments.messages} messages published and acknowledged; {duplicates} confirmed as stored before; "
        f"the producer moved {nodes.moves} times, the consumer used {consumer.streams} streams"
    )


if __name__ == "__main__":
    main()
