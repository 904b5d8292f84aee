-- A write and its TTL in one atomic step, and at most once where the caller asks for that.
--
-- KEYS[1..]   the keys of the command; the last one, where ARGV[3] says so, is where the record of this
--             write is kept, in the slot of the others
-- ARGV[1]     what bounds the reply, or what is stored afterwards (`ports.Bound`)
-- ARGV[2]     the life of the keys in seconds; "0": the command gives them none
-- ARGV[3]     the fingerprint of the write, told from another body's; behind it, with spaces between,
--             those that the same write may have had before; "": no record is kept
-- ARGV[4]     the record's life in milliseconds
-- ARGV[5]     the most bytes that the key may hold afterwards: a string's length, or names and values.
--             Whatever passes here can be read (`ports.SizeLimits.readable`)
-- ARGV[6]     the most fields that a hash may have afterwards
-- ARGV[7]     the most bytes that the reply may have
-- ARGV[8..]   the words of the command; ARGV[10..] what follows the first key
--
-- Replies as the command itself would, the first time and each time after. An error means that
-- nothing was done, but for PARTLY: that the write was done, and not what belongs to it. A write that
-- fails leaves no record, so that it can be tried again.

local key, keys, record = KEYS[1], #KEYS, nil
local bound, ttl, fingerprints = ARGV[1], ARGV[2], ARGV[3]
local max_bytes, max_fields, max_reply = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local NAME, FIRST = 8, 10
if fingerprints ~= '' then
  record, keys = KEYS[keys], keys - 1
end

if record then
  local kept = redis.pcall('GET', record)
  if type(kept) == 'table' then return kept end
  if kept then
    local fingerprint, reply = unpack(cmsgpack.unpack(kept))
    if not string.find(' ' .. fingerprints .. ' ', ' ' .. fingerprint .. ' ', 1, true) then
      return redis.error_reply('CONFLICT this idempotency key came with another body')
    end
    -- Written again, so that a WAIT that follows waits for the first write, too: on a new connection
    -- it would else have nothing to wait for. pcall: a server out of memory still repeats its answer.
    redis.pcall('SET', record, kept, 'KEEPTTL')
    return reply
  end
end

-- Return an error if the user may not run a command, whose words are such that it has no effect.
-- Redis 6 has no way to ask: there it is run, and Redis looks at the rights before the arguments.
local function forbidden(...)
  if redis.acl_check_cmd then
    if redis.acl_check_cmd(...) then return nil end
  elseif not string.find(redis.pcall(...).err, "user executing the script can't", 1, true) then
    return nil
  end
  return redis.error_reply('NOPERM ' .. (...))
end

-- Return an error if Redis is short of memory. It refuses a script's first write only; to Redis 6.2 one
-- that is only tried is the first. So there a SET without effect is tried before all others, unless
-- the command needs no memory.
local NEEDS_NO_MEMORY = {UNLINK = true, HDEL = true, GETDEL = true, EXPIRE = true}
local function out_of_memory()
  if redis.acl_check_cmd or NEEDS_NO_MEMORY[ARGV[NAME]] then return nil end
  local fault = redis.pcall('SET', key, '', 'no option')
  if string.find(fault.err, '^@user_script: %d+: %-OOM ') then return fault end
end

-- What follows the write is tried before it: else it could be done, and then stay without.
local no = out_of_memory()
if no then return no end
if ttl ~= '0' then
  for place = 1, keys do no = no or forbidden('EXPIRE', KEYS[place], 'x') end
end
if record then no = no or forbidden('SET', record, '', 'PX', 'x') end
if no then return no end

-- Return an error if what the command replies with is too large to be sent, or kept in a record.
local function unsendable(...)
  local size = redis.pcall(...)
  if type(size) == 'table' then return size end
  if size > max_reply then return redis.error_reply('LARGEREPLY bytes') end
end

-- Return an error if a hash would become too large. Up to MANY fields it is measured to the byte.
-- Beyond, a copy would hold everybody up: its size is then what Redis says it takes, less OVERHEAD
-- for each field; a read leaves as much out, and 20 bytes more (`ports.UNCOUNTED`).
local MANY, OVERHEAD, SPARSE = 512, 64, 16 * 1024 * 1024
local function outgrown()
  local fields = redis.pcall('HLEN', key)
  if type(fields) == 'table' then return fields end
  if fields > max_fields then return redis.error_reply('TOOMANY fields') end
  local more, bytes = (#ARGV - FIRST + 1) / 2, 0
  for place = FIRST, #ARGV do bytes = bytes + #ARGV[place] end
  local memory = 0
  if fields > 0 then
    memory = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', '0')
    if type(memory) == 'table' then return memory end
  end
  -- Redis keeps a number of up to 20 digits in 10 bytes, and everything else in at least as many
  -- bytes as it is long: so of few fields this is the most that they may have.
  local held = memory + 20 * fields
  if fields > MANY then held = math.max(0, memory - OVERHEAD * fields) end
  if fields + more <= max_fields and held + bytes <= max_bytes then return nil end
  -- What is far too large is not copied, not even the fields that are written. A hash that had many
  -- fields once keeps its table: that explains up to SPARSE bytes; see read.lua for the rest.
  if fields > MANY then
    if held > 2 * max_bytes then return redis.error_reply('TOOLARGE bytes') end
  elseif (memory - 4096) / 2 - 128 * fields > max_bytes + SPARSE then
    return redis.error_reply('TOOLARGE bytes')
  elseif fields > 0 then
    local reply = redis.pcall('HGETALL', key)
    if reply.err then return reply end
    held = 0
    for place = 1, #reply do held = held + #reply[place] end
  end
  -- Of a field that the call brings twice the last value counts, and what is replaced goes.
  local names, brought = {}, {}
  for place = FIRST, #ARGV, 2 do
    local name = ARGV[place]
    if not brought[name] then names[#names + 1] = name end
    brought[name] = #ARGV[place + 1]
  end
  bytes = 0
  for first = 1, #names, 4000 do
    local last = math.min(first + 3999, #names)
    local before = redis.pcall('HMGET', key, unpack(names, first, last))
    if before.err then return before end
    for place = first, last do
      local name, old = names[place], before[place - first + 1]
      bytes = bytes + brought[name]
      if old then
        bytes = bytes - #old
      else
        bytes, fields = bytes + #name, fields + 1
      end
    end
  end
  if fields > max_fields then return redis.error_reply('TOOMANY fields') end
  if held + bytes > max_bytes then return redis.error_reply('TOOLARGE bytes') end
end

-- Return an error if a counter would leave what can be counted, or its limit. Numbers are doubles here
-- and in a flow, and exact below 2^53 only.
local function uncountable()
  local size = redis.pcall('STRLEN', key)
  if type(size) == 'table' then return size end
  -- A whole number has at most 20 digits, or 19 and a sign. What has more is not copied.
  if size > 20 then return redis.error_reply('ERR value is not an integer or out of range') end
  local held = redis.pcall('GET', key)
  if type(held) == 'table' then return held end
  if not held then held = '0' end
  if not string.find(held, '^%-?%d+$') then
    return redis.error_reply('ERR value is not an integer or out of range')
  end
  local now, step = tonumber(held), tonumber(ARGV[FIRST])
  if math.abs(now) >= 2^53 or math.abs(now + step) >= 2^53 then
    return redis.error_reply('ERR increment or decrement would overflow')
  end
  if #string.format('%.0f', now + step) > max_bytes then return redis.error_reply('TOOLARGE bytes') end
end

if bound == 'growing hash' then
  no = outgrown()
elseif bound == 'counter' then
  no = uncountable()
elseif bound == 'string' then
  no = unsendable('STRLEN', key)
elseif bound == 'field' then
  no = unsendable('HSTRLEN', key, ARGV[FIRST])
end
if no then return no end

local reply
local unfinished = nil

if bound == 'growing hash' then
  -- Lua passes at most some 8,000 arguments to a call.
  reply = 0
  for first = FIRST, #ARGV, 4000 do
    local added = redis.pcall('HSET', key, unpack(ARGV, first, math.min(first + 3999, #ARGV)))
    if type(added) ~= 'table' then
      reply = reply + added
    elseif first == FIRST then
      return added
    else
      unfinished = unfinished or added.err
    end
  end
else
  reply = redis.pcall(unpack(ARGV, NAME))
end
if type(reply) == 'table' and reply.err then return reply end

-- Do what belongs to a write that is done.
local function follow(...)
  local done = redis.pcall(...)
  if type(done) == 'table' and done.err then unfinished = unfinished or done.err end
end

if ttl ~= '0' then
  for place = 1, keys do follow('EXPIRE', KEYS[place], ttl) end
end
if record and not unfinished then
  local kept = cmsgpack.pack({string.match(fingerprints, '^%S+'), reply})
  follow('SET', record, kept, 'PX', ARGV[4])
end
if unfinished then return redis.error_reply('PARTLY ' .. unfinished) end
return reply
