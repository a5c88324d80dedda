// A service of OpenTelemetry Go: POST /?next=URL is answered by calling URL in the same trace, with the same labels.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
)

// Without a proxy, whatever the environment says: every address here is loopback.
var client = http.Client{Transport: otelhttp.NewTransport(&http.Transport{})}

// relay calls the next service and answers with what otelhttp read from the request's headers.
func relay(response http.ResponseWriter, request *http.Request) {
	ctx := request.Context()
	labels := map[string]string{}
	for _, member := range baggage.FromContext(ctx).Members() {
		labels[member.Key()] = member.Value()
	}
	next, err := http.NewRequestWithContext(ctx, http.MethodPost, request.URL.Query().Get("next"), nil)
	if err != nil {
		http.Error(response, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := client.Do(next)
	if err != nil {
		http.Error(response, err.Error(), http.StatusBadGateway)
		return
	}
	answer.Body.Close()
	// An unsampled span of the SDK does not tell its parent.
	headers := propagation.HeaderCarrier(request.Header)
	parent := api.SpanContextFromContext(otel.GetTextMapPropagator().Extract(context.Background(), headers))
	json.NewEncoder(response).Encode(map[string]any{
		"traceId": api.SpanContextFromContext(ctx).TraceID(), "parentId": parent.SpanID(), "sampled": parent.IsSampled(),
		"tracestate": parent.TraceState().String(), "labels": labels,
	})
}

func main() {
	otel.SetTracerProvider(trace.NewTracerProvider())
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(
		propagation.TraceContext{}, propagation.Baggage{},
	))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() { // the test that started this has ended when stdin closes
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.Serve(listener, otelhttp.NewHandler(http.HandlerFunc(relay), "relay")))
}
