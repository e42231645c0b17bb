// Package channels has the three ways from a Go program into the mesh, each an ordinary gRPC channel.
//
// Lives here: which address, and which authority. Does not: calls.
package channels

import (
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/xds" // what xds:/// stands on
)

var plaintext = grpc.WithTransportCredentials(insecure.NewCredentials())

// ByGateway goes through the gateway: it finds the service by the gRPC name of the call.
func ByGateway(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, plaintext)
}

// BySidecar goes through the sidecar beside this process, which finds the service by the authority.
func BySidecar(service string) (*grpc.ClientConn, error) {
	outbound, there := strings.CutPrefix(os.Getenv("WEFT_OUTBOUND"), "http://")
	if !there {
		return nil, fmt.Errorf("WEFT_OUTBOUND=%q is no URL of a sidecar", os.Getenv("WEFT_OUTBOUND"))
	}
	return grpc.NewClient(outbound, plaintext, grpc.WithAuthority(service))
}

// ByXds has nothing in between: instances and policies come from the registry, as GRPC_XDS_BOOTSTRAP says.
func ByXds(service string) (*grpc.ClientConn, error) {
	return grpc.NewClient("xds:///"+service, plaintext)
}

// Open opens the channel that `gateway=HOST:PORT`, `sidecar` or `xds` means.
func Open(way, service string) (*grpc.ClientConn, error) {
	if address, is := strings.CutPrefix(way, "gateway="); is && address != "" {
		return ByGateway(address)
	}
	switch way {
	case "sidecar":
		return BySidecar(service)
	case "xds":
		return ByXds(service)
	}
	return nil, fmt.Errorf("%q is no way into the mesh: gateway=HOST:PORT, sidecar or xds", way)
}
