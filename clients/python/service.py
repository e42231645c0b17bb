"""A small service of the ring, with health and reflection, that knows nothing of weft but two variables.

It listens on 127.0.0.1:$PORT, as the sidecar beside it said, and calls others by WEFT_OUTBOUND. SIGTERM lets calls finish.
"""

import os
import signal
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from channels import by_sidecar
from shop.ring.v1 import python_pb2, python_pb2_grpc, ring_pb2

NAME = python_pb2.DESCRIPTOR.services_by_name["Python"].full_name
LANGUAGES = ("go", "java", "node", "python", "rust")
MOST_HOPS = 100
FINISH = 10
FOREVER = 10**6
# What a service hands on with the calls it makes, so that they are one trace.
HANDED_ON = ("traceparent", "tracestate")


class Ring(python_pb2_grpc.PythonServicer):
    def __init__(self):
        self.channels = {}

    def Pass(self, request, context):
        if len(request.route) > MOST_HOPS:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"route has {len(request.route)} names, at most {MOST_HOPS}")
        metadata = [(key, value) for key, value in context.invocation_metadata() if key in HANDED_ON]
        parent = dict(metadata).get("traceparent", "")
        hop = ring_pb2.Hop(
            service=os.environ.get("WEFT_SERVICE", "python"),
            instance=os.environ.get("WEFT_INSTANCE", ""),
            library=f"grpcio {grpc.__version__}",
            trace_id=parent.split("-")[1] if parent.count("-") == 3 else "",
        )
        response = ring_pb2.PassResponse(hops=[hop])
        if request.route:
            response.hops.extend(self.ask(request.route, metadata, context).hops)
        return response

    def ask(self, route, metadata, context):
        """Passes on to the first of the route, in what is left of the time, and ends as the next one ends."""
        following = route[0]
        if following not in LANGUAGES:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{following} is not of the ring")
        channel = self.channels.get(following) or self.channels.setdefault(following, by_sidecar(following))
        call = channel.unary_unary(
            f"/shop.ring.v1.{following.capitalize()}/Pass",
            request_serializer=ring_pb2.PassRequest.SerializeToString,
            response_deserializer=ring_pb2.PassResponse.FromString,
        )
        left = context.time_remaining()  # without a deadline it is none, or centuries, which no clock can hold
        timeout = left if left is not None and left < FOREVER else None
        try:
            return call(ring_pb2.PassRequest(route=route[1:]), timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            context.abort(error.code(), f"{following}: {error.details()}")


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    python_pb2_grpc.add_PythonServicer_to_server(Ring(), server)
    told = health.HealthServicer()
    for name in ("", NAME):
        told.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(told, server)
    reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    server.start()

    # A handler must not wait for the server: it runs where the server is waited for.
    signal.signal(signal.SIGTERM, lambda *_: server.stop(FINISH))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
