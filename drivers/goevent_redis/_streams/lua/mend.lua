-- Create a vanished group anew, behind all that it is known to have acknowledged.
--
-- KEYS  1 stream  2 hash of the marks of the group
-- ARGV  1 group  2 id behind which it begins if there is no mark  3 '1' to create the stream, too
-- Returns {what was created, id behind which it begins, highest id that may have been delivered}.
--
-- Entries between the last two may have been delivered before. The marks keep that id, because
-- other buses of the group need it, too.
local group, fallback, makes = ARGV[1], ARGV[2], ARGV[3]
local exists = redis.call('EXISTS', KEYS[1]) == 1
local from = '0'
if not exists and makes == '0' then return {'none', from, from} end
if exists then from = redis.call('HGET', KEYS[2], KEYS[1]) or fallback end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], group, from, 'MKSTREAM')
if made.err then
  if not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
  return {'', from, redis.call('HGET', KEYS[2], KEYS[1] .. '|high') or '0'}
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local high = last and last[1] or '0'
redis.call('HSET', KEYS[2], KEYS[1], from, KEYS[1] .. '|high', high)
return {exists and 'group' or 'stream', from, high}
