//! fastrace's side of the rows in __main__.py. For each line "ROW NANOSECONDS" of standard input, does the row's work for
//! about that long and prints the nanoseconds that one piece of it took.
use std::borrow::Cow;
use std::hint::black_box;
use std::io::BufRead;
use std::time::Duration;

use fastrace::collector::{Config, Reporter, SpanContext, SpanRecord};
use fastrace::prelude::*;

const CHUNK: u64 = 5000; // below 10,240, fastrace's limit of local spans under one parent

/// Takes spans and does nothing with them.
struct NullReporter;

impl Reporter for NullReporter {
    fn report(&mut self, spans: Vec<SpanRecord>) {
        black_box(spans);
    }
}

/// The CPU time of all threads of this process, the clock of measure.py.
fn clock() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid timespec for the call to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn repeat(mut work: impl FnMut()) -> u64 {
    let begin = clock();
    for _ in 0..CHUNK {
        work();
    }
    clock() - begin
}

/// The time of a chunk of *row*. What it stands in, and the export of its spans, are not timed.
fn chunk(row: &str) -> u64 {
    let is_sampled = row != "unsampled_child";
    let inside = |work: fn()| {
        let parent = Span::root("parent", SpanContext::random().sampled(is_sampled));
        let _guard = parent.set_local_parent();
        repeat(work)
    };
    let local_span: fn() = || drop(black_box(LocalSpan::enter_with_local_parent("work")));
    let spent = match row {
        "child" | "unsampled_child" => inside(local_span),
        "start_end" => inside(|| drop(black_box(Span::enter_with_local_parent("work")))),
        "root" => repeat(|| drop(black_box(Span::root("work", SpanContext::random())))),
        "off" => repeat(local_span), // without a parent a local span does nothing
        "set_attribute" => inside(|| {
            LocalSpan::add_property(|| (Cow::Borrowed("cart.items"), Cow::Borrowed("3")));
        }),
        _ => panic!("no row {row}"),
    };
    if row != "off" {
        fastrace::flush();
    }
    spent
}

fn main() {
    // Reports between the chunks, as tracekit exports: the interval never passes.
    fastrace::set_reporter(
        NullReporter,
        Config::default().report_interval(Duration::from_secs(3600)),
    );
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input");
        let (row, slice) = line.split_once(' ').expect("a row and nanoseconds");
        let slice: f64 = slice.parse().expect("nanoseconds");
        let (mut spent, mut count) = (0, 0);
        while count == 0 || (spent as f64) < slice {
            spent += chunk(row);
            count += CHUNK;
        }
        println!("{}", spent as f64 / count as f64);
    }
}
