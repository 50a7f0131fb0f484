"""Takes messages and acknowledges them, the simplest way: python work.py QUEUE

A lease is an answer of Receive and its receipt settles it, on any node. What is not settled before its
lease ends comes again, so the work must bear being done twice. Ends with Ctrl-C.
"""

import sys
import uuid

from google.protobuf.duration_pb2 import Duration
from ticketrail.v1 import consumer_service_pb2 as consuming
from ticketrail.v1 import consumer_service_pb2_grpc as consuming_grpc

from connect import connect

DONE = (consuming.SETTLE_OUTCOME_OK, consuming.SETTLE_OUTCOME_ALREADY_SETTLED)


def main(queue):
    consumer = consuming_grpc.ConsumerServiceStub(connect())
    while True:
        # The attempt id makes a repeated call give the same leases once more, and no others.
        wish = consuming.ReceiveRequest(
            queue=queue,
            max_messages=10,
            wait=Duration(seconds=10),
            receive_attempt_id=str(uuid.uuid4()),
        )
        deliveries = consumer.Receive(wish, timeout=30).deliveries
        if not deliveries:
            continue  # none came within the wait

        for delivery in deliveries:
            print("worked on", delivery.message.body.decode(), flush=True)

        # NACK gives a message back, REJECT gives it up to the dead letters.
        items = [
            consuming.SettleItem(receipt=delivery.receipt, kind=consuming.SETTLE_KIND_ACK)
            for delivery in deliveries
        ]
        answer = consumer.Settle(consuming.SettleRequest(queue=queue, items=items), timeout=30)
        for delivery, result in zip(deliveries, answer.results):
            fate = "acknowledged" if result.outcome in DONE else "comes again:"
            print(fate, delivery.message.body.decode(), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
