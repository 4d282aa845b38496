-- What wrk posts, and what came back, in one line of JSON: seconds, and latencies in microseconds.

local payload = assert(io.open(os.getenv("PAYLOAD"), "rb"))
wrk.method = "POST"
wrk.body = payload:read("*a")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-Webhook-Secret"] = os.getenv("WEBHOOK_SECRET")
payload:close()

local threads = {}
not_200 = 0

function setup(thread)
  table.insert(threads, thread)
end

function response(status)
  if status ~= 200 then
    not_200 = not_200 + 1
  end
end

function done(summary, latency)
  local refused = 0
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("not_200")
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"answers": %d, "seconds": %f, "p99": %d, "not_200": %d, "errors": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(99), refused,
    errors.connect + errors.read + errors.write + errors.timeout))
end
