"""The three ways from a Python program into the mesh, each an ordinary gRPC channel.

Lives here: which address, and which authority. Does not: calls.
"""

import os

import grpc


def by_gateway(address):
    """Through the gateway: it finds the service by the gRPC name of the call."""
    return grpc.insecure_channel(address)


def by_sidecar(service):
    """Through the sidecar beside this process, which finds the service by the authority."""
    outbound = os.environ["WEFT_OUTBOUND"].removeprefix("http://")
    return grpc.insecure_channel(outbound, options=[("grpc.default_authority", service)])


def by_xds(service):
    """Without anything in between: instances and policies come from the registry, as GRPC_XDS_BOOTSTRAP says."""
    return grpc.insecure_channel(f"xds:///{service}")


def open_channel(way, service):
    """Opens the channel that `gateway=HOST:PORT`, `sidecar` or `xds` means."""
    kind, _, address = way.partition("=")
    if kind == "gateway" and address:
        return by_gateway(address)
    if way == "sidecar":
        return by_sidecar(service)
    if way == "xds":
        return by_xds(service)
    raise SystemExit(f"{way!r} is no way into the mesh: gateway=HOST:PORT, sidecar or xds")
