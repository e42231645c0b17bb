// A client of the example service `users`, and of the ring.
//
//	client WAY users                   makes a user, reads it back, lists; prints its id
//	client WAY ring SERVICE[,NEXT…]    passes the pass around; prints a line for each hop
//
// WAY is gateway=HOST:PORT, sidecar (WEFT_OUTBOUND) or xds (GRPC_XDS_BOOTSTRAP).
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weft-clients/channels"
	"weft-clients/ring"
	users "weft-clients/shop/users/v1"
)

const deadline = 10 * time.Second

func useUsers(ctx context.Context, way string) error {
	channel, err := channels.Open(way, "users")
	if err != nil {
		return err
	}
	defer channel.Close()
	client := users.NewUsersClient(channel)
	email := fmt.Sprintf("ada+%s@example.com", rand.Text())
	made, err := client.CreateUser(ctx, &users.CreateUserRequest{Name: "Ada", Email: email})
	if err != nil {
		return err
	}
	read, err := client.GetUser(ctx, &users.GetUserRequest{Id: made.Id})
	if err != nil {
		return err
	}
	if !proto.Equal(made, read) {
		return fmt.Errorf("made %v, read %v", made, read)
	}
	listed, err := client.ListUsers(ctx, &users.ListUsersRequest{PageSize: 1})
	if err != nil {
		return err
	}
	if len(listed.Users) != 1 {
		return fmt.Errorf("a page of one user: %v", listed)
	}
	if _, err := client.GetUser(ctx, &users.GetUserRequest{Id: "nobody"}); status.Code(err) != codes.NotFound {
		return fmt.Errorf("nobody is a user: %v", err)
	}
	fmt.Println(made.Id)
	return nil
}

func passAround(ctx context.Context, way string, route []string) error {
	channel, err := channels.Open(way, route[0])
	if err != nil {
		return err
	}
	defer channel.Close()
	response, err := ring.Pass(ctx, channel, route[0], route[1:])
	if err != nil {
		return err
	}
	for _, hop := range response.Hops {
		trace := hop.TraceId
		if trace == "" {
			trace = "-"
		}
		fmt.Println(hop.Service, hop.Instance, trace, hop.Library)
	}
	return nil
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var err error
	switch arguments := os.Args[1:]; {
	case len(arguments) == 2 && arguments[1] == "users":
		err = useUsers(ctx, arguments[0])
	case len(arguments) == 3 && arguments[1] == "ring":
		err = passAround(ctx, arguments[0], strings.Split(arguments[2], ","))
	default:
		fmt.Fprintln(os.Stderr, "client gateway=HOST:PORT|sidecar|xds users | ring SERVICE[,NEXT…]")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
