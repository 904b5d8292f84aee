-- Take tokens from a bucket that a fleet has in common (GCRA: one number says all).
--
-- KEYS[1]  the bucket: when, in microseconds since 1970, all that was taken will have been earned
-- ARGV[1]  microseconds between two tokens
-- ARGV[2]  how many were taken; they are, whether they were there or not
--
-- Replies with the microseconds from now until then, 0 for a full bucket. The time is Redis's own:
-- the clocks of the fleet need not agree. A bucket that is full again is forgotten.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local earned = math.max(now, tonumber(redis.call('GET', KEYS[1])) or 0) + ARGV[1] * ARGV[2]
if earned > now then
  redis.call('SET', KEYS[1], string.format('%.0f', earned), 'PX', math.ceil((earned - now) / 1000))
end
return earned - now
