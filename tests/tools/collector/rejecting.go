package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// rejecting is a receiver of OTLP that rejects the spans with a certain attribute, and passes on the rest of a request.
// The Collector's own receiver takes a request whole, or fails it whole.
type rejecting struct {
	ptraceotlp.UnimplementedGRPCServer
	config     *rejectingConfig
	settings   receiver.Settings
	next       consumer.Traces
	serverGRPC *grpc.Server
	serverHTTP *http.Server
	serving    sync.WaitGroup
}

type rejectingConfig struct {
	Attribute string                  `mapstructure:"attribute"`
	GRPC      configgrpc.ServerConfig `mapstructure:"grpc"`
	HTTP      confighttp.ServerConfig `mapstructure:"http"`
}

func newRejectingFactory() receiver.Factory {
	defaults := func() component.Config {
		return &rejectingConfig{GRPC: configgrpc.NewDefaultServerConfig(), HTTP: confighttp.NewDefaultServerConfig()}
	}
	create := func(
		_ context.Context, settings receiver.Settings, config component.Config, next consumer.Traces,
	) (receiver.Traces, error) {
		return &rejecting{config: config.(*rejectingConfig), settings: settings, next: next}, nil
	}
	return receiver.NewFactory(
		component.MustNewType("rejecting"), defaults, receiver.WithTraces(create, component.StabilityLevelDevelopment),
	)
}

func (r *rejecting) Start(ctx context.Context, host component.Host) (err error) {
	telemetry := r.settings.TelemetrySettings
	if r.serverGRPC, err = r.config.GRPC.ToServer(ctx, host.GetExtensions(), telemetry); err != nil {
		return
	}
	ptraceotlp.RegisterGRPCServer(r.serverGRPC, r)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", r.post)
	if r.serverHTTP, err = r.config.HTTP.ToServer(ctx, host.GetExtensions(), telemetry, mux); err != nil {
		return
	}
	listenerGRPC, err := r.config.GRPC.NetAddr.Listen(ctx)
	if err != nil {
		return
	}
	listenerHTTP, err := r.config.HTTP.ToListener(ctx)
	if err != nil {
		return errors.Join(err, listenerGRPC.Close())
	}
	serve := func(server interface{ Serve(net.Listener) error }, listener net.Listener) {
		err := server.Serve(listener)
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) && err != nil {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(err))
		}
	}
	r.serving.Go(func() { serve(r.serverGRPC, listenerGRPC) })
	r.serving.Go(func() { serve(r.serverHTTP, listenerHTTP) })
	return
}

func (r *rejecting) Shutdown(ctx context.Context) (err error) {
	if r.serverHTTP != nil {
		err = r.serverHTTP.Shutdown(ctx)
	}
	if r.serverGRPC != nil {
		r.serverGRPC.GracefulStop()
	}
	r.serving.Wait()
	return
}

// Export answers a request over either protocol, and logs how many spans it had and how many of them are rejected.
func (r *rejecting) Export(ctx context.Context, request ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	response, traces := ptraceotlp.NewExportResponse(), request.Traces()
	spans := traces.SpanCount()
	traces.ResourceSpans().RemoveIf(func(resource ptrace.ResourceSpans) bool {
		resource.ScopeSpans().RemoveIf(func(scope ptrace.ScopeSpans) bool {
			scope.Spans().RemoveIf(func(span ptrace.Span) bool {
				_, isRejected := span.Attributes().Get(r.config.Attribute)
				return isRejected
			})
			return scope.Spans().Len() == 0
		})
		return resource.ScopeSpans().Len() == 0
	})
	rejected := spans - traces.SpanCount()
	if rejected < spans {
		if err := r.next.ConsumeTraces(ctx, traces); err != nil {
			return response, status.Error(codes.Unavailable, err.Error()) // not partial success: all may come again
		}
	}
	if rejected > 0 {
		response.PartialSuccess().SetRejectedSpans(int64(rejected))
		response.PartialSuccess().SetErrorMessage(fmt.Sprintf("the attribute %s is not allowed", r.config.Attribute))
	}
	r.settings.Logger.Info("answered", zap.Int("spans", spans), zap.Int("rejected", rejected))
	return response, nil
}

func (r *rejecting) post(writer http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusBadRequest)
		return
	}
	exported := ptraceotlp.NewExportRequest()
	kind, _, _ := mime.ParseMediaType(request.Header.Get("Content-Type"))
	unmarshal, marshal := exported.UnmarshalProto, ptraceotlp.ExportResponse.MarshalProto
	if kind == "application/json" {
		unmarshal, marshal = exported.UnmarshalJSON, ptraceotlp.ExportResponse.MarshalJSON
	}
	if err := unmarshal(body); err != nil {
		http.Error(writer, err.Error(), http.StatusBadRequest)
		return
	}
	response, err := r.Export(request.Context(), exported)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer, err := marshal(response)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusInternalServerError)
		return
	}
	writer.Header().Set("Content-Type", kind)
	writer.Write(answer)
}
