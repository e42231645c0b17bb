"""A client of the example service `users`, and of the ring.

    client.py WAY users                   makes a user, reads it back, lists; prints its id
    client.py WAY ring SERVICE[,NEXT…]    passes the pass around; prints a line for each hop

WAY is gateway=HOST:PORT, sidecar (WEFT_OUTBOUND) or xds (GRPC_XDS_BOOTSTRAP).
"""

import sys
import uuid

import grpc

from channels import open_channel
from shop.ring.v1 import ring_pb2
from shop.users.v1 import users_pb2, users_pb2_grpc

DEADLINE = 10


def users(way):
    with open_channel(way, "users") as channel:
        stub = users_pb2_grpc.UsersStub(channel)
        email = f"ada+{uuid.uuid4()}@example.com"
        made = stub.CreateUser(users_pb2.CreateUserRequest(name="Ada", email=email), timeout=DEADLINE)
        read = stub.GetUser(users_pb2.GetUserRequest(id=made.id), timeout=DEADLINE)
        assert read == made, (read, made)
        assert stub.ListUsers(users_pb2.ListUsersRequest(page_size=1), timeout=DEADLINE).users
        try:
            stub.GetUser(users_pb2.GetUserRequest(id="nobody"), timeout=DEADLINE)
            raise AssertionError("nobody is a user")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
        print(made.id)


def ring(way, route):
    with open_channel(way, route[0]) as channel:
        call = channel.unary_unary(
            f"/shop.ring.v1.{route[0].capitalize()}/Pass",
            request_serializer=ring_pb2.PassRequest.SerializeToString,
            response_deserializer=ring_pb2.PassResponse.FromString,
        )
        for hop in call(ring_pb2.PassRequest(route=route[1:]), timeout=DEADLINE).hops:
            print(hop.service, hop.instance, hop.trace_id or "-", hop.library)


def main(arguments):
    match arguments:
        case [way, "users"]:
            users(way)
        case [way, "ring", route]:
            ring(way, route.split(","))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
