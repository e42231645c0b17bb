// A stock gRPC server (grpc-go) with xDS credentials: certificates and access policies are what the mesh says.
//
//	client serve ADDRESS NAME
//
// It answers Unary and ServerStream of Echo, as the instance NAME, and writes a line of JSON whenever it starts or stops to take connections.
package main

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	credentials "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/xds"
	"google.golang.org/protobuf/encoding/protowire"
)

func answer(name string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), name)
}

func unary(name string) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		in := []byte(nil)
		if err := decode(&in); err != nil {
			return nil, err
		}
		handle := func(context.Context, any) (any, error) {
			out := answer(name)
			return &out, nil
		}
		if interceptor == nil {
			return handle(ctx, &in)
		}
		return interceptor(ctx, &in, &grpc.UnaryServerInfo{FullMethod: "/weft.testkit.v1.Echo/Unary"}, handle)
	}
}

func serve(address, name string) {
	creds, err := credentials.NewServerCredentials(credentials.ServerOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		panic(err)
	}
	told := xds.ServingModeCallback(func(_ net.Addr, it xds.ServingModeChangeArgs) {
		fmt.Printf("{\"serving\":%t,\"why\":%q}\n", it.Mode == connectivity.ServingModeServing, fmt.Sprint(it.Err))
	})
	server, err := xds.NewGRPCServer(grpc.Creds(creds), grpc.ForceServerCodec(raw{}), told)
	if err != nil {
		panic(err)
	}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "weft.testkit.v1.Echo",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Unary", Handler: unary(name)}},
		Streams: []grpc.StreamDesc{{
			StreamName:    "ServerStream",
			ServerStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error {
				in, out := []byte(nil), answer(name)
				if err := stream.RecvMsg(&in); err != nil {
					return err
				}
				return stream.SendMsg(&out)
			},
		}},
	}, nil)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		panic(err)
	}
	if err := server.Serve(listener); err != nil {
		panic(err)
	}
}
