// A small service of the ring, with health and reflection, that knows nothing of weft but two variables.
//
// It listens on 127.0.0.1:$PORT, as the sidecar beside it said, and calls others by WEFT_OUTBOUND. SIGTERM lets calls finish.
package main

import (
	"cmp"
	"context"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"weft-clients/channels"
	"weft-clients/ring"
	pb "weft-clients/shop/ring/v1"
)

const mostHops = 100

// handedOn is what a service hands on with the calls it makes, so that they are one trace.
var handedOn = []string{"traceparent", "tracestate"}

type service struct {
	pb.UnimplementedGoServer
	lock     sync.Mutex
	channels map[string]*grpc.ClientConn
}

func (s *service) Pass(ctx context.Context, request *pb.PassRequest) (*pb.PassResponse, error) {
	if len(request.Route) > mostHops {
		return nil, status.Errorf(codes.InvalidArgument, "route has %d names, at most %d", len(request.Route), mostHops)
	}
	incoming, _ := metadata.FromIncomingContext(ctx)
	hop := &pb.Hop{
		Service:  cmp.Or(os.Getenv("WEFT_SERVICE"), "go"),
		Instance: os.Getenv("WEFT_INSTANCE"),
		Library:  "grpc-go " + grpc.Version,
		TraceId:  traceID(incoming.Get("traceparent")),
	}
	response := &pb.PassResponse{Hops: []*pb.Hop{hop}}
	if len(request.Route) == 0 {
		return response, nil
	}
	rest, err := s.ask(ctx, incoming, request.Route)
	if err != nil {
		return nil, err
	}
	response.Hops = append(response.Hops, rest.Hops...)
	return response, nil
}

// ask passes on to the first of the route, in what is left of the time, and ends as the next one ends.
func (s *service) ask(ctx context.Context, incoming metadata.MD, route []string) (*pb.PassResponse, error) {
	channel, err := s.channel(route[0])
	if err != nil {
		return nil, err
	}
	for _, key := range handedOn {
		for _, value := range incoming.Get(key) {
			ctx = metadata.AppendToOutgoingContext(ctx, key, value)
		}
	}
	response, err := ring.Pass(ctx, channel, route[0], route[1:])
	if err != nil {
		said := status.Convert(err)
		return nil, status.Errorf(said.Code(), "%s: %s", route[0], said.Message())
	}
	return response, nil
}

// channel returns the way to a service, kept for the next call. There are as many as the ring has services.
func (s *service) channel(following string) (*grpc.ClientConn, error) {
	if _, err := ring.Method(following); err != nil {
		return nil, err
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	if channel, there := s.channels[following]; there {
		return channel, nil
	}
	channel, err := channels.BySidecar(following)
	if err == nil {
		s.channels[following] = channel
	}
	return channel, err
}

func traceID(traceparent []string) string {
	if len(traceparent) == 0 {
		return ""
	}
	if parts := strings.Split(traceparent[0], "-"); len(parts) == 4 {
		return parts[1]
	}
	return ""
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterGoServer(server, &service{channels: map[string]*grpc.ClientConn{}})
	told := health.NewServer()
	told.SetServingStatus(pb.Go_ServiceDesc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(server, told)
	reflection.Register(server)

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ended
		told.Shutdown()
		server.GracefulStop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
