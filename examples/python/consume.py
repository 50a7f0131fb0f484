"""Consumes a queue over a stream: python consume.py QUEUE

The node pushes while fewer than `prefetch` messages are unsettled; acknowledgements go back as ranges
on the same stream. gRPC repeats calls but not streams that broke: the loop in `main` opens the next one,
and `session_id` takes the leases along. Messages may come twice then. Ends with Ctrl-C.
"""

import queue
import sys

import grpc
from ticketrail.v1 import consumer_service_pb2 as consuming
from ticketrail.v1 import consumer_service_pb2_grpc as consuming_grpc

from connect import connect


def consume(consumer, open_frame):
    """One stream: works on what comes, until the stream breaks."""
    requests = queue.SimpleQueue()  # what we send
    requests.put(consuming.ConsumeRequest(open=open_frame))
    try:
        for frame in consumer.Consume(iter(requests.get, None)):
            if frame.HasField("opened"):
                open_frame.session_id = frame.opened.session_id
            elif frame.HasField("deliveries"):
                deliveries = frame.deliveries.deliveries
                for delivery in deliveries:
                    print("worked on", delivery.message.body.decode(), flush=True)
                done = consuming.SettleRange(
                    first_delivery_id=deliveries[0].delivery_id,
                    last_delivery_id=deliveries[-1].delivery_id,
                    kind=consuming.SETTLE_KIND_ACK,
                )
                settlement = consuming.ConsumeSettlement(ranges=[done])
                requests.put(consuming.ConsumeRequest(settlement=settlement))
            elif frame.HasField("go_away"):
                return  # the node stops; the leases go along to the next
    finally:
        requests.put(None)  # nothing more to send


def main(queue_name):
    consumer = consuming_grpc.ConsumerServiceStub(connect())
    open_frame = consuming.ConsumeOpen(queue=queue_name, prefetch=50)
    while True:
        try:
            consume(consumer, open_frame)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND and open_frame.session_id:
                open_frame.session_id = b""  # away for too long: what was leased comes again by itself
            elif error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            print("the stream broke; once more:", error.details(), file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
