// A service of OpenTelemetry JS. services.py has the protocol.
import { createServer } from "node:http";
import { ROOT_CONTEXT, propagation, trace } from "@opentelemetry/api";
import { CompositePropagator, W3CBaggagePropagator, W3CTraceContextPropagator } from "@opentelemetry/core";
import { B3InjectEncoding, B3Propagator } from "@opentelemetry/propagator-b3";
import { JaegerPropagator } from "@opentelemetry/propagator-jaeger";
import { NodeTracerProvider } from "@opentelemetry/sdk-trace-node";

const withLabels = (ids) => new CompositePropagator({ propagators: [ids, new W3CBaggagePropagator()] });
const FORMATS = {
  w3c: withLabels(new W3CTraceContextPropagator()),
  b3: withLabels(new B3Propagator({ injectEncoding: B3InjectEncoding.SINGLE_HEADER })),
  b3multi: withLabels(new B3Propagator({ injectEncoding: B3InjectEncoding.MULTI_HEADER })),
  jaeger: withLabels(new JaegerPropagator()), // its own labels too: uberctx-KEY
};
const formatOf = (path) => FORMATS[path.slice(1)];
const setter = { set: (carrier, key, value) => (carrier[key] = value) };
const getter = { get: (carrier, key) => carrier[key], keys: (carrier) => Object.keys(carrier) };
const tracer = new NodeTracerProvider().getTracer("interop");

async function serve(request) {
  const remote = formatOf(request.url).extract(ROOT_CONTEXT, request.headers, getter);
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const [next, ...rest] = Buffer.concat(pieces).toString().split("\n");
  const span = tracer.startSpan("relay", {}, remote);
  const parent = trace.getSpanContext(remote);
  const line = new URLSearchParams({
    service: "node",
    trace_id: span.spanContext().traceId,
    span_id: span.spanContext().spanId,
    parent_id: parent?.spanId ?? "",
    flags: (parent?.traceFlags ?? 0).toString(16).padStart(2, "0"),
    tracestate: parent?.traceState?.serialize() ?? "",
  });
  for (const [key, entry] of propagation.getBaggage(remote)?.getAllEntries() ?? []) line.set(`label.${key}`, entry.value);
  let after = "";
  if (next) {
    const inside = trace.setSpan(remote, span);
    const client = tracer.startSpan("call", {}, inside);
    line.set("sent_id", client.spanContext().spanId);
    const headers = {};
    formatOf(new URL(next).pathname).inject(trace.setSpan(inside, client), headers, setter);
    const answer = await fetch(next, { method: "POST", headers, body: rest.join("\n") });
    after = await answer.text();
    client.end();
    if (!answer.ok) throw new Error(after);
  }
  span.end();
  return `${line}\n${after}`;
}

const server = createServer((request, response) =>
  serve(request).then(
    (text) => response.end(text),
    (error) => response.writeHead(502).end(String(error)),
  ),
);
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume(); // the test that started this has ended
