-- Plays the requests of a file, each a line with its length and then its bytes,
-- from the one given by number on, over and over.
local requests, at = {}, 0

function init(args)
   local file = assert(io.open(args[1], "rb"))
   local text = file:read("*a")
   file:close()
   local position = 1
   while position <= #text do
      local _, last, length = text:find("^(%d+)\n", position)
      position = last + 1 + tonumber(length)
      requests[#requests + 1] = text:sub(last + 1, position - 1)
   end
   at = tonumber(args[2])
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      "result requests=%d us=%d bytes=%d status=%d failed=%d p50=%.1f p99=%.1f p999=%.1f\n",
      summary.requests, summary.duration, summary.bytes, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
