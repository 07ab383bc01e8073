-- Move a dead letter to the stream of the events that its group gets again.
--
-- KEYS  1 stream of dead letters  2 stream of replayed events
-- ARGV  1 id of the dead letter  2 id of the original entry  3 the bytes of the event
-- Returns 1, or 0 if there is no such dead letter.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return 0 end
local key = {}
for at = 1, #found[2], 2 do
  if found[2][at] == 'k' then key = {'k', found[2][at + 1]} end
end
redis.call('XADD', KEYS[2], '*', 'o', ARGV[2], 'e', ARGV[3], unpack(key))
return redis.call('XDEL', KEYS[1], ARGV[1])
