// A grpc-gateway (github.com/grpc-ecosystem/grpc-gateway) as its own pages say to set one up: the peer of `cargo xtask bench gateway`.
//
//	grpc-gateway LISTEN UPSTREAM
//
// Messages may be as large as the bench has them; everything else is as it comes.
package main

import (
	"context"
	"net/http"
	"os"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"weft-bench/grpc-gateway/shapes"
)

const largest = 64 << 20

func main() {
	mux := runtime.NewServeMux()
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largest), grpc.MaxCallSendMsgSize(largest)),
	}
	if err := shapes.RegisterShapesHandlerFromEndpoint(context.Background(), mux, os.Args[2], options); err != nil {
		panic(err)
	}
	panic(http.ListenAndServe(os.Args[1], mux))
}
