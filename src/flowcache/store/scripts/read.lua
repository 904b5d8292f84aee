-- Read a value, unless it is larger than the caller wants to receive. Writes nothing.
--
-- KEYS[1]    the key
-- ARGV[1]    what bounds the reply (`ports.Bound`): string, field or hash
-- ARGV[2]    the most bytes: of a string or a field, its length; of a hash, all names and values, less
--            UNCOUNTED bytes a field where it has more than MANY (`ports.UNCOUNTED` says why)
-- ARGV[3]    the most fields
-- ARGV[4]    "1" on the connection for large replies, where a look may cost more
-- ARGV[5..]  the words of the command: its name, the key, what follows
--
-- Replies as the command itself would, a hash as a flat list. A value that is larger is not sent:
-- the reply is then an integer, its size or another number above ARGV[2]; or -1 for a hash of many
-- fields. On the connection that all calls share that means: nobody looked yet, ask on the other.
-- There it means: send HGETALL itself, which costs half of what a script does to copy it.

local key, bound, most = KEYS[1], ARGV[1], tonumber(ARGV[2])
local alone = ARGV[4] == '1'
local MANY, UNCOUNTED, SPARSE, ELSEWHERE = 512, 84, 16 * 1024 * 1024, -1

local MEASURE = {string = 'STRLEN', field = 'HSTRLEN'}
if MEASURE[bound] then
  local size = redis.pcall(MEASURE[bound], unpack(ARGV, 6))
  if type(size) == 'table' or size > most then return size end
  return redis.pcall(unpack(ARGV, 5))
end

local fields = redis.pcall('HLEN', key)
if type(fields) == 'table' then return fields end
if fields == 0 then return {} end
if fields > tonumber(ARGV[3]) then return 2^53 end
-- In a JSON answer a field takes 6 bytes at least besides its name and value.
if fields * 6 > most then return fields * 6 end
if fields > MANY and not alone then return ELSEWHERE end

-- MEMORY USAGE bounds the size from both sides without a copy of it. Redis keeps a number of up to
-- 20 digits in 10 bytes, everything else in at least as many bytes as it is long; and it spends at
-- most twice the length, and 256 bytes a field. Besides it keeps the table of a hash that had many
-- fields once: so what few fields take may be up to SPARSE bytes less.
local memory = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', '0')
if type(memory) == 'table' then return memory end
if not memory then return {} end
local uncounted = 0
if fields > MANY then uncounted = UNCOUNTED * fields end
local fits = memory + 20 * fields - uncounted <= most
if not fits then
  local least = math.floor((memory - 4096) / 2) - 128 * fields - uncounted
  if fields > MANY then
    if least > most then return least end
  elseif memory > 2 * most and not alone then
    return ELSEWHERE
  elseif least > most + SPARSE then
    return least
  end
end
if fields > MANY and fits then return ELSEWHERE end

local reply = redis.pcall('HGETALL', key)
if reply.err or fits then return reply end
local size = -uncounted
for place = 1, #reply do size = size + #reply[place] end
if size > most then return size end
return reply
