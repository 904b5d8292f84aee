-- A write and its TTL in one atomic step, and at most once where the caller asks for that.
--
-- KEYS[1]    the key written
-- KEYS[2]    optional: where the record of this write is kept, in the slot of KEYS[1]
-- ARGV[1]    the command: SET, HSET, DEL or INCRBY
-- ARGV[2]    the key's life in seconds; "0": the command gives it none
-- ARGV[3]    the fingerprint of the write, told from another body's; behind it, with spaces between,
--            those that the same write may have had before
-- ARGV[4]    the record's life in milliseconds
-- ARGV[5..]  the command's arguments after the key
--
-- Replies as the command itself would, the first time and each time after. A write that fails
-- leaves no record, so that it can be tried again.

local record = KEYS[2]
if record then
  local seen = redis.call('HMGET', record, 'fingerprint', 'reply')
  if seen[1] then
    if not string.find(' ' .. ARGV[3] .. ' ', ' ' .. seen[1] .. ' ', 1, true) then
      return redis.error_reply('CONFLICT this idempotency key came with another body')
    end
    -- Written again, so that a WAIT that follows waits for the first write, too: on a new connection
    -- it would else have nothing to wait for. pcall: a server out of memory still repeats its answer.
    redis.pcall('HSET', record, 'fingerprint', seen[1])
    return tonumber(seen[2]) or redis.status_reply(seen[2])
  end
end

local key, command, ttl = KEYS[1], ARGV[1], ARGV[2]
local reply

if command == 'SET' then
  if ttl == '0' then
    reply = redis.pcall('SET', key, ARGV[5])
  else
    reply = redis.pcall('SET', key, ARGV[5], 'EX', ttl)
  end
elseif command == 'HSET' then
  -- Lua passes at most some 8,000 arguments to a call.
  reply = 0
  for first = 5, #ARGV, 4000 do
    local added = redis.pcall('HSET', key, unpack(ARGV, first, math.min(first + 3999, #ARGV)))
    if type(added) == 'table' then return added end
    reply = reply + added
  end
  if ttl ~= '0' then redis.call('EXPIRE', key, ttl) end
else
  if command == 'INCRBY' then
    -- Numbers are doubles here and in a flow, and exact below 2^53 only: nothing is counted beyond.
    local held = redis.pcall('GET', key)
    if type(held) == 'table' then return held end
    if math.abs((tonumber(held or 0) or 0) + tonumber(ARGV[5])) >= 2^53 then
      return redis.error_reply('ERR increment or decrement would overflow')
    end
  end
  reply = redis.pcall(command, key, unpack(ARGV, 5))
  if type(reply) ~= 'table' and ttl ~= '0' then redis.call('EXPIRE', key, ttl) end
end

local answer = reply
if type(reply) == 'table' then
  if reply.err then return reply end
  answer = reply.ok
end

if record then
  redis.call('HSET', record, 'fingerprint', string.match(ARGV[3], '^%S+'), 'reply', answer)
  redis.call('PEXPIRE', record, ARGV[4])
end
return reply
