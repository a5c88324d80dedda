//! A service of OpenTelemetry Rust. services.py has the protocol.
use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::{process, thread};

use opentelemetry::baggage::BaggageExt;
use opentelemetry::propagation::{TextMapCompositePropagator, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, Tracer, TracerProvider};
use opentelemetry::Context;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use opentelemetry_zipkin::B3Encoding;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const THREADS: usize = 16;

/// The propagator that the path of a URL names, and W3C Baggage.
fn format_of(path: &str) -> Result<TextMapCompositePropagator> {
    let ids: Box<dyn TextMapPropagator + Send + Sync> = match path.trim_matches('/') {
        "w3c" => Box::new(TraceContextPropagator::new()),
        "b3" => Box::new(opentelemetry_zipkin::Propagator::with_encoding(
            B3Encoding::SingleHeader,
        )),
        "b3multi" => Box::new(opentelemetry_zipkin::Propagator::with_encoding(
            B3Encoding::MultipleHeader,
        )),
        "jaeger" => Box::new(opentelemetry_jaeger_propagator::Propagator::new()),
        other => return Err(format!("no format {other}").into()),
    };
    Ok(TextMapCompositePropagator::new(vec![
        ids,
        Box::new(BaggagePropagator::new()),
    ]))
}

struct Relay {
    tracer: SdkTracer,
    agent: ureq::Agent,
}

impl Relay {
    fn serve(&self, path: &str, headers: &HashMap<String, String>, route: &str) -> Result<String> {
        let remote = format_of(path)?.extract_with_context(&Context::new(), headers);
        let parent = remote.span().span_context().clone();
        let inside = remote.with_span(self.tracer.start_with_context("relay", &remote));
        let mut line = form_urlencoded::Serializer::new(String::new());
        line.append_pair("service", "rust")
            .append_pair(
                "trace_id",
                &inside.span().span_context().trace_id().to_string(),
            )
            .append_pair(
                "span_id",
                &inside.span().span_context().span_id().to_string(),
            )
            .append_pair("parent_id", &parent.span_id().to_string())
            .append_pair("flags", &format!("{:02x}", parent.trace_flags().to_u8()))
            .append_pair("tracestate", &parent.trace_state().header());
        for (key, (value, _)) in remote.baggage() {
            line.append_pair(&format!("label.{key}"), value.as_str());
        }
        let mut after = String::new();
        if !route.is_empty() {
            let (next, rest) = route.split_once('\n').unwrap_or((route, ""));
            let client = inside.with_span(self.tracer.start_with_context("call", &inside));
            line.append_pair(
                "sent_id",
                &client.span().span_context().span_id().to_string(),
            );
            let mut sent = HashMap::new();
            format_of(next.rsplit('/').next().unwrap_or(""))?.inject_context(&client, &mut sent);
            let mut request = self.agent.post(next);
            for (name, value) in &sent {
                request = request.header(name, value);
            }
            after = request.send(rest)?.body_mut().read_to_string()?;
        }
        Ok(format!("{}\n{after}", line.finish()))
    }

    fn answer(&self, mut request: tiny_http::Request) -> Result<()> {
        let mut route = String::new();
        request.as_reader().read_to_string(&mut route)?;
        let headers = request
            .headers()
            .iter()
            .map(|header| {
                (
                    header.field.as_str().as_str().to_lowercase(),
                    header.value.as_str().to_owned(),
                )
            })
            .collect();
        let response = match self.serve(request.url(), &headers, &route) {
            Ok(text) => tiny_http::Response::from_string(text),
            Err(error) => tiny_http::Response::from_string(error.to_string()).with_status_code(502),
        };
        Ok(request.respond(response)?)
    }
}

fn main() {
    let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").expect("no port"));
    let agent = ureq::Agent::config_builder().proxy(None).build().into();
    let relay = Arc::new(Relay {
        tracer: SdkTracerProvider::builder().build().tracer("interop"),
        agent,
    });
    for _ in 0..THREADS {
        let (server, relay) = (server.clone(), relay.clone());
        thread::spawn(move || {
            for request in server.incoming_requests() {
                relay
                    .answer(request)
                    .unwrap_or_else(|error| eprintln!("{error}"));
            }
        });
    }
    println!(
        "{}",
        server.server_addr().to_ip().expect("a TCP port").port()
    );
    io::copy(&mut io::stdin(), &mut io::sink()).ok(); // the test that started this has ended when stdin closes
    process::exit(0);
}
