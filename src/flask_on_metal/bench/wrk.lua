-- What wrk is told: posts that differ, from when on to count, and its figures as one line of JSON.
--
--   wrk … -s wrk.lua URL get|post LEAD
--
-- wrk counts from its first connect on. Until a thousand TLS handshakes are done, little else is, and that is no rate of
-- requests: so each thread also counts those that it sends after LEAD seconds.

local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds; long nanoseconds; } moment; int clock_gettime(int clock, moment *now);")

local moment = ffi.new("moment")
local MONOTONIC = 1

local function now()
  ffi.C.clock_gettime(MONOTONIC, moment)
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

counted = 0 -- read by done(), so not local

local made = 0

local function next_post()
  made = made + 1
  local id = number * 1000003 + made
  local body = '{"id": ' .. id .. ', "title": "Post ' .. id .. '", "text": "' .. string.rep("words ", 30) .. '"}'
  return wrk.format("POST", nil, nil, body)
end

function init(args)
  local lead = tonumber(args[2])
  local following
  if args[1] == "post" then
    wrk.headers["Content-Type"] = "application/json"
    following = next_post
  else
    local same = wrk.format()
    following = function() return same end
  end
  begin = now() + lead
  local function counting()
    counted = counted + 1
    return following()
  end
  function request()
    if now() >= begin then
      request = counting -- from here on without a look at the clock
      wrk.request = counting
      return counting()
    end
    return following()
  end
end

function done(summary, latency, requests)
  local ended = now()
  local steady, since = 0, ended
  for _, thread in ipairs(threads) do
    steady = steady + thread:get("counted")
    since = math.min(since, thread:get("begin"))
  end
  local percentiles = {}
  for _, share in ipairs({ 50, 75, 90, 95, 99, 99.9 }) do
    table.insert(percentiles, string.format('"p%g": %.3f', share, latency:percentile(share) / 1000))
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"seconds": %.6f, "requests": %d, "steady": {"seconds": %.6f, "requests": %d}, "bytes": %d, '
      .. '"failures": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}, '
      .. '"latency_ms": {%s, "max": %.3f}}\n',
    summary.duration / 1e6, summary.requests, ended - since, steady, summary.bytes, errors.connect, errors.read,
    errors.write, errors.status, errors.timeout, table.concat(percentiles, ", "), latency.max / 1000))
end
