"""The module that tritonclient's messages say they are from: Ray pickles them by that name between its processes."""

from tritonclient.grpc.service_pb2 import *  # noqa: F403
