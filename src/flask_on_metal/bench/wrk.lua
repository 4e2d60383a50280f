-- What wrk is told: posts that differ, and its figures as one line of JSON.

local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local count = 0

function init(args)
  if args[1] == "post" then
    local headers = { ["Content-Type"] = "application/json" }
    for name, value in pairs(wrk.headers) do headers[name] = value end
    request = function()
      count = count + 1
      local id = number * 1000003 + count
      local body = '{"id": ' .. id .. ', "title": "Post ' .. id .. '", "text": "' .. string.rep("words ", 30) .. '"}'
      return wrk.format("POST", nil, headers, body)
    end
  end
end

function done(summary, latency, requests)
  local percentiles = {}
  for _, share in ipairs({ 50, 75, 90, 95, 99, 99.9 }) do
    table.insert(percentiles, string.format('"p%g": %.3f', share, latency:percentile(share) / 1000))
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"seconds": %.6f, "requests": %d, "bytes": %d, "failures": {"connect": %d, "read": %d, "write": %d, '
      .. '"status": %d, "timeout": %d}, "latency_ms": {%s, "max": %.3f}}\n',
    summary.duration / 1e6, summary.requests, summary.bytes, errors.connect, errors.read, errors.write, errors.status,
    errors.timeout, table.concat(percentiles, ", "), latency.max / 1000))
end
