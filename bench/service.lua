-- For wrk: print the latencies of a run as JSON, and, with a number behind "--", wait so many ms between a connection's
-- requests: at random, from none to twice as long.
function init(args)
  local pause_ms = tonumber(args[1] or "0")
  if pause_ms > 0 then
    math.randomseed(42)
    function delay()
      return math.random(0, 2 * pause_ms)
    end
  end
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "failed": %d, "latency_ms": [%f, %f, %f]}\n',
    summary.requests, summary.duration / 1e6,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
