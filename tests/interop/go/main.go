// Services of OpenTelemetry Go: otelhttp, otelgrpc, and golang.org/x/net/trace beside them. services.py has the protocol.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/contrib/propagators/b3"
	"go.opentelemetry.io/contrib/propagators/jaeger"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	nettrace "golang.org/x/net/trace"
)

var formats = map[string]propagation.TextMapPropagator{
	"w3c":     withLabels(propagation.TraceContext{}),
	"b3":      withLabels(b3.New(b3.WithInjectEncoding(b3.B3SingleHeader))),
	"b3multi": withLabels(b3.New(b3.WithInjectEncoding(b3.B3MultipleHeader))),
	"jaeger":  withLabels(jaeger.Jaeger{}),
}

func withLabels(ids propagation.TextMapPropagator) propagation.TextMapPropagator {
	return propagation.NewCompositeTextMapPropagator(ids, propagation.Baggage{})
}

// serve answers a request in the span of ctx: what its headers say, and then what the next services of route answer.
func serve(ctx context.Context, service, format string, headers http.Header, route string) (string, error) {
	span := trace.SpanContextFromContext(ctx)
	record := nettrace.New("relay", service)
	record.LazyPrintf("trace %s", span.TraceID())
	defer record.Finish()
	// An unsampled span of the SDK does not tell its parent.
	carrier := propagation.HeaderCarrier(headers)
	parent := trace.SpanContextFromContext(formats[format].Extract(context.Background(), carrier))
	line := url.Values{
		"service": {service}, "trace_id": {span.TraceID().String()}, "span_id": {span.SpanID().String()},
		"parent_id": {parent.SpanID().String()}, "flags": {parent.TraceFlags().String()},
		"tracestate": {parent.TraceState().String()},
	}
	for _, member := range baggage.FromContext(ctx).Members() {
		line.Set("label."+member.Key(), member.Value())
	}
	rest := ""
	if route != "" {
		next, after, _ := strings.Cut(route, "\n")
		var sent trace.SpanContext
		var err error
		if rest, err = call(context.WithValue(ctx, sentKey{}, &sent), next, after); err != nil {
			record.LazyPrintf("failed: %v", err)
			record.SetError()
			return "", err
		}
		line.Set("sent_id", sent.SpanID().String())
	}
	return line.Encode() + "\n" + rest, nil
}

// sentKey is the key of a *trace.SpanContext in a context: where to write the client span that the headers name.
type sentKey struct{}

func noteSent(ctx context.Context) {
	if sent, ok := ctx.Value(sentKey{}).(*trace.SpanContext); ok {
		*sent = trace.SpanContextFromContext(ctx)
	}
}

func call(ctx context.Context, next, route string) (string, error) {
	target, err := url.Parse(next)
	if err != nil {
		return "", err
	}
	if target.Scheme == "grpc" {
		return callGRPC(ctx, target, route)
	}
	return callHTTP(ctx, target, route)
}

// inside is the transport under otelhttp's.
type inside struct{ http.Transport }

func (t *inside) RoundTrip(request *http.Request) (*http.Response, error) {
	noteSent(request.Context())
	return t.Transport.RoundTrip(request)
}

// Without a proxy, whatever the environment says: every address here is loopback.
var plain = &inside{http.Transport{MaxIdleConnsPerHost: 64}}
var transports = map[string]http.RoundTripper{}

func callHTTP(ctx context.Context, target *url.URL, route string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(route))
	if err != nil {
		return "", err
	}
	transport := transports[strings.Trim(target.Path, "/")]
	if raw := rawHeaders(target); raw != nil {
		request.Header, transport = raw, plain
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return string(text), err
}

// rawHeaders returns the headers that the target's query names, to be sent in place of a propagator's: header=NAME:VALUE.
func rawHeaders(target *url.URL) http.Header {
	query := target.Query()
	if !query.Has("header") {
		return nil
	}
	headers := http.Header{}
	for _, header := range query["header"] {
		name, value, _ := strings.Cut(header, ":")
		headers[name] = append(headers[name], value) // Add() would change the name's case
	}
	return headers
}

func handler(format string) http.Handler {
	handle := func(response http.ResponseWriter, request *http.Request) {
		route, err := io.ReadAll(request.Body)
		if err == nil {
			var text string
			if text, err = serve(request.Context(), "go-http", format, request.Header, string(route)); err == nil {
				io.WriteString(response, text)
				return
			}
		}
		http.Error(response, err.Error(), http.StatusBadGateway)
	}
	return otelhttp.NewHandler(http.HandlerFunc(handle), "relay", otelhttp.WithPropagators(formats[format]))
}

func main() {
	otel.SetTracerProvider(sdk.NewTracerProvider())
	for name, format := range formats {
		http.Handle("/"+name, handler(name)) // the default mux, on which x/net/trace has /debug/requests
		transports[name] = otelhttp.NewTransport(plain, otelhttp.WithPropagators(format))
	}
	var ports []any
	listen := func() net.Listener {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
		return listener
	}
	web, rpc, census := listen(), listen(), listen()
	go serveGRPC(rpc)
	go serveCensus(census)
	fmt.Println(ports...)
	go func() { // the test that started this has ended when stdin closes
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.Serve(web, nil))
}
