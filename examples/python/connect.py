"""How to reach a cluster: one channel to all its nodes, any of which serves any call."""

import os

import grpc

NODES = os.environ.get("TICKETRAIL_NODES", "127.0.0.1:7400,127.0.0.1:7401,127.0.0.1:7402")
CONFIG = os.path.join(os.path.dirname(__file__), "../../proto/retry-service-config.json")


def connect():
    with open(CONFIG, encoding="utf-8") as file:
        service_config = file.read()
    return grpc.insecure_channel(
        f"ipv4:{NODES}",
        options=[
            # Else it is made of all the addresses, which is none that HTTP/2 allows.
            ("grpc.default_authority", "ticketrail"),
            ("grpc.service_config", service_config),  # what to repeat, and how often
        ],
    )
