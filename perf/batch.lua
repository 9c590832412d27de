-- 10,000 requests for wrk on one thread, and then its end: PUTs of new keys with a content of 4 KiB each, or GETs of those
-- keys.
--
-- wrk -t1 -c64 -d120 -s perf/batch.lua URL -- put|get PREFIX
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long us; } moment; int gettimeofday(moment *, void *);")

local total, sent, received = 10000, 0, 0
local verb, prefix, filler, started

local function now()
  local moment = ffi.new("moment")
  ffi.C.gettimeofday(moment, nil)
  return tonumber(moment.s) + tonumber(moment.us) / 1e6
end

function init(arguments)
  verb, prefix = arguments[1], arguments[2]
  local random = io.open("/dev/urandom", "rb")
  filler = random:read(4096 - 16)
  random:close()
end

function request()
  started = started or now()
  local number = sent
  sent = sent + 1
  if verb == "get" then
    number = number % total
  end
  local path = "/v1/keys/models/acme/" .. prefix .. number
  if verb == "put" then
    return wrk.format("PUT", path, nil, filler .. string.format("%16d", number))
  end
  return wrk.format("GET", path)
end

function response(status)
  if status ~= 200 and status ~= 201 then
    print("an answer was " .. status)
  end
  received = received + 1
  if received == total then
    io.write(string.format("%.3f s\n", now() - started))
    io.flush()
    -- wrk itself would go on waiting for as long as it was told to.
    os.exit(0)
  end
end
