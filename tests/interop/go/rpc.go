package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A method for each format; messages are google.protobuf.StringValue.
const serviceName = "tracekit.test.Relay"

type handle func(ctx context.Context, format, route string) (string, error)

func description(serve handle, names ...string) *grpc.ServiceDesc {
	service := grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil)}
	for _, name := range names {
		method := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var route wrapperspb.StringValue
			if err := decode(&route); err != nil {
				return nil, err
			}
			text, err := serve(ctx, name, route.Value)
			return wrapperspb.String(text), err
		}
		service.Methods = append(service.Methods, grpc.MethodDesc{MethodName: name, Handler: method})
	}
	return &service
}

func serveGRPC(listener net.Listener) {
	grpc.EnableTracing = true // x/net/trace's, with a trace for each call
	var every []propagation.TextMapPropagator
	var names []string
	for name, format := range formats {
		every, names = append(every, format), append(names, name)
	}
	// The server learns the method too late to choose. A request has the headers of one format.
	reading := otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator(every...))
	server := grpc.NewServer(grpc.StatsHandler(otelgrpc.NewServerHandler(reading)))
	server.RegisterService(description(func(ctx context.Context, format, route string) (string, error) {
		return serve(ctx, "go-grpc", format, headersOf(ctx), route)
	}, names...), nil)
	log.Fatal(server.Serve(listener))
}

func headersOf(ctx context.Context) http.Header {
	headers := http.Header{}
	received, _ := metadata.FromIncomingContext(ctx)
	for name, values := range received {
		for _, value := range values {
			headers.Add(name, value)
		}
	}
	return headers
}

// noting is a stats.Handler that runs after otelgrpc's.
type noting struct{ stats.Handler }

func (noting) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	noteSent(ctx)
	return ctx
}
func (noting) HandleRPC(context.Context, stats.RPCStats)                         {}
func (noting) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (noting) HandleConn(context.Context, stats.ConnStats)                       {}

var connections sync.Map // by format and host

func connection(host, format string, handlers ...stats.Handler) (*grpc.ClientConn, error) {
	key := format + " " + host
	if found, ok := connections.Load(key); ok {
		return found.(*grpc.ClientConn), nil
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy()}
	for _, handler := range handlers {
		options = append(options, grpc.WithStatsHandler(handler))
	}
	made, err := grpc.NewClient("passthrough:///"+host, options...)
	if err != nil {
		return nil, err
	}
	if found, loaded := connections.LoadOrStore(key, made); loaded {
		made.Close()
		made = found.(*grpc.ClientConn)
	}
	return made, nil
}

func callGRPC(ctx context.Context, target *url.URL, route string) (string, error) {
	format := strings.Trim(target.Path, "/")
	var made *grpc.ClientConn
	var err error
	if raw := rawHeaders(target); raw != nil {
		sent := metadata.MD{}
		for name, values := range raw {
			sent.Append(name, values...)
		}
		ctx = metadata.NewOutgoingContext(ctx, sent)
		made, err = connection(target.Host, "raw")
	} else {
		tracing := otelgrpc.NewClientHandler(otelgrpc.WithPropagators(formats[format]))
		made, err = connection(target.Host, format, tracing, noting{})
	}
	if err != nil {
		return "", err
	}
	return invoke(ctx, made, format, route)
}

func invoke(ctx context.Context, made *grpc.ClientConn, method, route string) (string, error) {
	var answer wrapperspb.StringValue
	err := made.Invoke(ctx, "/"+serviceName+"/"+method, wrapperspb.String(route), &answer)
	return answer.Value, err
}
