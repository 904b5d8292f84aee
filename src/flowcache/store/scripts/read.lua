-- Read a value, unless it is larger than the caller wants to receive. Writes nothing.
--
-- KEYS[1]  the key
-- ARGV[1]  GET or HGETALL
-- ARGV[2]  the most bytes: of a string, its length; of a hash, names and values and 6 bytes a field,
--          which is what a field costs at least besides them in a JSON answer
--
-- Replies as the command itself would, a hash as a flat list. A value that is larger is not sent:
-- the reply is then an integer, its size or a number below that and above ARGV[2].

local key, command, most = KEYS[1], ARGV[1], tonumber(ARGV[2])

if command == 'GET' then
  local size = redis.pcall('STRLEN', key)
  if type(size) == 'table' or size > most then return size end
  return redis.pcall('GET', key)
end

local fields = redis.pcall('HLEN', key)
if type(fields) == 'table' then return fields end
if fields * 6 > most then return fields * 6 end

-- MEMORY USAGE bounds the size from both sides without a copy of it. Redis keeps a number of up to
-- 20 digits in 10 bytes, everything else in at least as many bytes as it is long; and it spends at
-- most twice the length, and 256 bytes a field.
local memory = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', '0')
if type(memory) == 'table' then return memory end
if not memory then return {} end
local least = math.floor((memory - 4096) / 2) - 128 * fields + 6 * fields
if least > most then return least end

local reply = redis.pcall('HGETALL', key)
if reply.err or memory + 26 * fields <= most then return reply end
local size = 6 * fields
for place = 1, #reply do size = size + #reply[place] end
if size > most then return size end
return reply
