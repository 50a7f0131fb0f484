"""Publishes numbered messages, ten a call: python publish.py QUEUE COUNT

Each is stored once, whatever fails on the way: the calls are repeated by gRPC itself, as
retry-service-config.json tells it, and the producer's sequence makes a repeated call free of harm.
"""

import sys

from ticketrail.v1 import message_pb2 as messages
from ticketrail.v1 import publisher_service_pb2 as publishing
from ticketrail.v1 import publisher_service_pb2_grpc as publishing_grpc

from connect import connect

BATCH = 10


def main(queue, count):
    publisher = publishing_grpc.PublisherServiceStub(connect())

    # Message n has sequence n: a run under the same name goes on where the one before it ended.
    producer = publisher.OpenProducer(
        publishing.OpenProducerRequest(name=f"numbers for {queue}"), timeout=30
    )
    for first in range(producer.last_sequence + 1, count + 1, BATCH):
        bodies = [f"message {n}" for n in range(first, min(first + BATCH, count + 1))]
        items = [
            publishing.PublishItem(
                routing_key=queue,  # the name of the queue
                mandatory=True,  # an error where there is no such queue
                message=messages.Message(body=body.encode()),
            )
            for body in bodies
        ]
        sequence = publishing.ProducerSequence(
            producer_id=producer.producer_id, epoch=producer.epoch, first_sequence=first
        )
        publisher.Publish(publishing.PublishRequest(items=items, producer=sequence), timeout=30)
        # Answered: on the disks of a majority.
        for body in bodies:
            print("confirmed", body, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], int(sys.argv[2]))
