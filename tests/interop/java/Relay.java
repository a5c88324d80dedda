import static java.nio.charset.StandardCharsets.UTF_8;

import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.opentelemetry.api.baggage.Baggage;
import io.opentelemetry.api.baggage.propagation.W3CBaggagePropagator;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanContext;
import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.propagation.TextMapGetter;
import io.opentelemetry.context.propagation.TextMapPropagator;
import io.opentelemetry.extension.trace.propagation.B3Propagator;
import io.opentelemetry.extension.trace.propagation.JaegerPropagator;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.export.SimpleSpanProcessor;
import io.opentelemetry.sdk.trace.export.SpanExporter;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.stream.Collectors;

/** A service of OpenTelemetry Java. services.py has the protocol. */
public class Relay {
  static final Map<String, TextMapPropagator> FORMATS =
      Map.of(
          "w3c", withLabels(W3CTraceContextPropagator.getInstance()),
          "b3", withLabels(B3Propagator.injectingSingleHeader()),
          "b3multi", withLabels(B3Propagator.injectingMultiHeaders()),
          "jaeger", withLabels(JaegerPropagator.getInstance())); // its own labels too: uberctx-KEY
  // Without a processor the SDK makes no spans.
  static final Tracer TRACER =
      SdkTracerProvider.builder()
          .addSpanProcessor(SimpleSpanProcessor.create(SpanExporter.composite()))
          .build()
          .get("interop");
  static final HttpClient CLIENT =
      HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).proxy(HttpClient.Builder.NO_PROXY).build();
  static final TextMapGetter<Headers> GETTER =
      new TextMapGetter<>() {
        public Iterable<String> keys(Headers headers) {
          return headers.keySet().stream().map(String::toLowerCase).toList();
        }

        public String get(Headers headers, String key) {
          return headers.getFirst(key);
        }
      };

  static TextMapPropagator withLabels(TextMapPropagator ids) {
    return TextMapPropagator.composite(ids, W3CBaggagePropagator.getInstance());
  }

  static TextMapPropagator formatOf(URI url) {
    return FORMATS.get(url.getPath().substring(1));
  }

  static String serve(URI url, Headers headers, String route) throws IOException, InterruptedException {
    Context remote = formatOf(url).extract(Context.root(), headers, GETTER);
    SpanContext parent = Span.fromContext(remote).getSpanContext();
    Span span = TRACER.spanBuilder("relay").setParent(remote).startSpan();
    Map<String, String> line = new LinkedHashMap<>();
    line.put("service", "java");
    line.put("trace_id", span.getSpanContext().getTraceId());
    line.put("span_id", span.getSpanContext().getSpanId());
    line.put("parent_id", parent.getSpanId());
    line.put("flags", parent.getTraceFlags().asHex());
    line.put(
        "tracestate",
        parent.getTraceState().asMap().entrySet().stream()
            .map(entry -> entry.getKey() + "=" + entry.getValue())
            .collect(Collectors.joining(",")));
    Baggage.fromContext(remote).forEach((key, entry) -> line.put("label." + key, entry.getValue()));
    String after = "";
    if (!route.isEmpty()) {
      String[] next = route.split("\n", 2);
      URI following = URI.create(next[0]);
      Context inside = remote.with(span);
      Span client = TRACER.spanBuilder("call").setParent(inside).startSpan();
      line.put("sent_id", client.getSpanContext().getSpanId());
      HttpRequest.Builder request =
          HttpRequest.newBuilder(following)
              .POST(HttpRequest.BodyPublishers.ofString(next.length > 1 ? next[1] : ""));
      formatOf(following).inject(inside.with(client), request, HttpRequest.Builder::setHeader);
      HttpResponse<String> answer = CLIENT.send(request.build(), HttpResponse.BodyHandlers.ofString());
      client.end();
      if (answer.statusCode() != 200) throw new IOException(answer.body());
      after = answer.body();
    }
    span.end();
    return line.entrySet().stream()
            .map(entry -> encode(entry.getKey()) + "=" + encode(entry.getValue()))
            .collect(Collectors.joining("&"))
        + "\n"
        + after;
  }

  static String encode(String text) {
    return URLEncoder.encode(text, UTF_8);
  }

  static void handle(HttpExchange exchange) throws IOException {
    try (exchange) {
      int status = 200;
      String text;
      try {
        String route = new String(exchange.getRequestBody().readAllBytes(), UTF_8);
        text = serve(exchange.getRequestURI(), exchange.getRequestHeaders(), route);
      } catch (Exception error) {
        status = 502;
        text = error.toString();
      }
      byte[] octets = text.getBytes(UTF_8);
      exchange.sendResponseHeaders(status, octets.length);
      exchange.getResponseBody().write(octets);
    }
  }

  public static void main(String[] arguments) throws IOException {
    HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.createContext("/", Relay::handle);
    server.setExecutor(Executors.newCachedThreadPool());
    server.start();
    System.out.println(server.getAddress().getPort());
    while (System.in.read() >= 0) {} // the test that started this has ended when stdin closes
    System.exit(0);
  }
}
