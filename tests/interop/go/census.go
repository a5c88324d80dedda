package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"log"
	"net"
	"net/url"
	"strings"

	"go.opencensus.io/plugin/ocgrpc"
	"go.opencensus.io/tag"
	"go.opencensus.io/trace"
	"go.opencensus.io/trace/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// serveCensus is a gRPC server of OpenCensus, which reads and writes grpc-trace-bin and grpc-tags-bin. The method
// "census" relays; "echo" answers with the two as they arrived, in base64.
func serveCensus(listener net.Listener) {
	server := grpc.NewServer(grpc.StatsHandler(&ocgrpc.ServerHandler{}))
	server.RegisterService(description(census, "census", "echo"), nil)
	log.Fatal(server.Serve(listener))
}

func census(ctx context.Context, method, route string) (string, error) {
	received, _ := metadata.FromIncomingContext(ctx)
	line := url.Values{"service": {"go-" + method}}
	if method == "echo" {
		for _, name := range []string{"grpc-trace-bin", "grpc-tags-bin"} {
			for _, value := range received[name] {
				line.Add(name, base64.StdEncoding.EncodeToString([]byte(value)))
			}
		}
		return line.Encode() + "\n", nil
	}
	span := trace.FromContext(ctx).SpanContext()
	line.Set("trace_id", span.TraceID.String())
	line.Set("span_id", span.SpanID.String())
	if values := received["grpc-trace-bin"]; len(values) == 1 {
		parent, _ := propagation.FromBinary([]byte(values[0]))
		line.Set("parent_id", parent.SpanID.String())
		line.Set("flags", fmt.Sprintf("%02x", uint32(parent.TraceOptions)))
	}
	if values := received["grpc-tags-bin"]; len(values) == 1 {
		labels, err := tag.Decode([]byte(values[0]))
		if err != nil {
			return "", err
		}
		for _, name := range []string{"tenant", "spaces", "plus", "percent", "quotes"} { // a tag.Map lists no keys
			if value, ok := labels.Value(tag.MustNewKey(name)); ok {
				line.Set("label."+name, value)
			}
		}
		ctx = tag.NewContext(ctx, labels)
	}
	next, after, _ := strings.Cut(route, "\n")
	target, err := url.Parse(next)
	if err != nil {
		return "", err
	}
	made, err := connection(target.Host, "census", &ocgrpc.ClientHandler{})
	if err != nil {
		return "", err
	}
	rest, err := invoke(ctx, made, strings.Trim(target.Path, "/"), after)
	return line.Encode() + "\n" + rest, err
}
