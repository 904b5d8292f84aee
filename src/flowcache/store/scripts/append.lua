-- Append to a stream, all or nothing, and cut it to about so many entries.
--
-- KEYS[1]  the stream
-- ARGV[1]  about how many entries it may have; the oldest go
-- ARGV[2]  the name of the one field of an entry
-- ARGV[3]  and what follows: its value in each entry, in order
--
-- Replies with the number of entries that were appended.

for place = 3, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', ARGV[2], ARGV[place])
end
return #ARGV - 2
