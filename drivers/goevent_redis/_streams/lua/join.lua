-- Create a group, unless it exists, and note where it begins.
--
-- KEYS  1 stream  2 hash of the marks of the group
-- ARGV  1 group  2 id behind which it begins, or '$' for the end of the stream
-- Returns 1 if the group was created, else 0.
local group, from = ARGV[1], ARGV[2]
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], group, from, 'MKSTREAM')
if not made.err then
  if from == '$' then
    local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
    from = last and last[1] or '0'
  end
  redis.call('HSET', KEYS[2], KEYS[1], from)
  return 1
end
if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
return made
