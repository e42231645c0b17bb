// Package ring hands the pass on to any service of the ring: each offers the same method under a name of its own.
//
// Lives here: which method that is, and one call of it. Does not: channels.
package ring

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "weft-clients/shop/ring/v1"
)

// Method returns the full name of the method of a service, whose language has the service's name; INVALID_ARGUMENT if the ring has no such language.
func Method(service string) (string, error) {
	name := protoreflect.FullName("shop.ring.v1." + strings.ToUpper(service[:min(1, len(service))]) + service[min(1, len(service)):])
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if _, is := found.(protoreflect.ServiceDescriptor); err != nil || !is {
		return "", status.Errorf(codes.InvalidArgument, "%q is not of the ring", service)
	}
	return "/" + string(name) + "/Pass", nil
}

// Pass asks a service of the ring; the route is what follows it.
func Pass(ctx context.Context, channel *grpc.ClientConn, service string, route []string) (*pb.PassResponse, error) {
	method, err := Method(service)
	if err != nil {
		return nil, err
	}
	response := new(pb.PassResponse)
	return response, channel.Invoke(ctx, method, &pb.PassRequest{Route: route}, response)
}
