// A stock gRPC client (grpc-go) that calls Echo as it is told on stdin, and answers each word with a line of JSON.
//
//	client TARGET [--secure]
//	client serve ADDRESS NAME      is a server instead (serve.go)
//
// The words are those of client.py. It has no generated code and knows nothing of weft: a request is written by hand, and of an answer the field
// `instance` is read.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/encoding/protowire"
)

// raw carries messages as the bytes they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// tally is what came of calls: who answered how often, what failed how.
type tally struct {
	lock     sync.Mutex
	Answered map[string]int `json:"answered"`
	Failed   map[string]int `json:"failed"`
}

func newTally() *tally { return &tally{Answered: map[string]int{}, Failed: map[string]int{}} }

func (t *tally) tell() {
	t.lock.Lock()
	defer t.lock.Unlock()
	line, err := json.Marshal(t)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func request(fail, delay uint64) []byte {
	message := protowire.AppendTag(nil, 1, protowire.BytesType)
	message = protowire.AppendString(message, "x")
	message = protowire.AppendTag(message, 3, protowire.VarintType)
	message = protowire.AppendVarint(message, delay)
	message = protowire.AppendTag(message, 4, protowire.VarintType)
	return protowire.AppendVarint(message, fail)
}

func instance(message []byte) string {
	for len(message) > 0 {
		number, kind, length := protowire.ConsumeTag(message)
		if length < 0 {
			return ""
		}
		message = message[length:]
		if number == 2 && kind == protowire.BytesType {
			text, _ := protowire.ConsumeString(message)
			return text
		}
		length = protowire.ConsumeFieldValue(number, kind, message)
		if length < 0 {
			return ""
		}
		message = message[length:]
	}
	return ""
}

func call(channel *grpc.ClientConn, into *tally, options map[string]string) {
	number := func(name string, usual float64) float64 {
		value, err := strconv.ParseFloat(options[name], 64)
		if err != nil {
			return usual
		}
		return value
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(number("timeout", 20)*float64(time.Second)))
	defer cancel()
	for name, value := range options {
		if name != "fail" && name != "delay" && name != "timeout" {
			ctx = metadata.AppendToOutgoingContext(ctx, name, value)
		}
	}
	in, out := request(uint64(number("fail", 0)), uint64(number("delay", 0))), []byte(nil)
	err := channel.Invoke(ctx, "/weft.testkit.v1.Echo/Unary", &in, &out, grpc.ForceCodec(raw{}))
	into.lock.Lock()
	defer into.lock.Unlock()
	if err != nil {
		said := status.Convert(err)
		into.Failed[said.Code().String()+" "+said.Message()]++
		return
	}
	into.Answered[instance(out)]++
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2], os.Args[3])
		return
	}
	creds := insecure.NewCredentials()
	for _, flag := range os.Args[2:] {
		if flag == "--secure" {
			secured, err := xds.NewClientCredentials(xds.ClientOptions{FallbackCreds: creds})
			if err != nil {
				panic(err)
			}
			creds = secured
		}
	}
	channel, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(creds))
	if err != nil {
		panic(err)
	}
	defer channel.Close()
	total, stopped, running := newTally(), make(chan struct{}), sync.WaitGroup{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch words[0] {
		case "calls":
			count, err := strconv.Atoi(words[1])
			if err != nil {
				panic(err)
			}
			options := map[string]string{}
			for _, option := range words[2:] {
				name, value, _ := strings.Cut(option, "=")
				options[name] = value
			}
			counted := newTally()
			for range count {
				call(channel, counted, options)
			}
			counted.tell()
		case "start":
			for range 4 {
				running.Add(1)
				go func() {
					defer running.Done()
					for {
						select {
						case <-stopped:
							return
						default:
							call(channel, total, nil)
						}
					}
				}()
			}
			newTally().tell()
		case "stop":
			close(stopped)
			running.Wait()
			total.tell()
		case "tell":
			total.tell()
		}
	}
}
