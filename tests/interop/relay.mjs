// A service of OpenTelemetry JS: POST /?format=b3&next=URL is answered by calling URL in the same trace, with the same labels.
import { createServer } from "node:http";
import { context, propagation, trace } from "@opentelemetry/api";
import { CompositePropagator, W3CBaggagePropagator, W3CTraceContextPropagator } from "@opentelemetry/core";
import { B3InjectEncoding, B3Propagator } from "@opentelemetry/propagator-b3";
import { JaegerPropagator } from "@opentelemetry/propagator-jaeger";
import { NodeTracerProvider } from "@opentelemetry/sdk-trace-node";

const b3 = (injectEncoding) => [new B3Propagator({ injectEncoding }), new W3CBaggagePropagator()];
const PROPAGATORS = {
  w3c: [new W3CTraceContextPropagator(), new W3CBaggagePropagator()],
  b3: b3(B3InjectEncoding.SINGLE_HEADER),
  b3multi: b3(B3InjectEncoding.MULTI_HEADER),
  jaeger: [new JaegerPropagator()],
};
const setter = { set: (carrier, key, value) => (carrier[key] = value) };
const getter = { get: (carrier, key) => carrier[key], keys: (carrier) => Object.keys(carrier) };
const tracer = new NodeTracerProvider().getTracer("interop");

const server = createServer(async (request, response) => {
  const query = new URL(request.url, "http://127.0.0.1").searchParams;
  const propagator = new CompositePropagator({ propagators: PROPAGATORS[query.get("format")] });
  const remote = propagator.extract(context.active(), request.headers, getter);
  const span = tracer.startSpan("relay", {}, remote);
  const headers = {};
  propagator.inject(trace.setSpan(remote, span), headers, setter);
  span.end();
  const seen = Object.fromEntries((propagation.getBaggage(remote)?.getAllEntries() ?? []).map(([k, e]) => [k, e.value]));
  await fetch(query.get("next"), { method: "POST", headers });
  response.end(JSON.stringify({ traceId: trace.getSpanContext(remote)?.traceId, labels: seen }));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume(); // whoever started it is gone
