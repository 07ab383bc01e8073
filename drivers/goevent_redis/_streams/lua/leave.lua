-- Release all entries of this consumer, and remove it from the group.
--
-- KEYS  1 stream
-- ARGV  1 group  2 consumer  3 consumer of released entries  4 milliseconds for which they are to
--       count as idle  5 '1' to remove the consumer
--       then the ids with which listeners have begun: their delivery counts
-- Returns the number of entries.
local group, me, released, idle, remove = unpack(ARGV, 1, 5)
local started, count = {}, 0
for at = 6, #ARGV do started[ARGV[at]] = true end
for _, each in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', 1000000, me)) do
  local id, deliveries = each[1], each[4]
  if not started[id] then deliveries = math.max(deliveries - 1, 0) end
  redis.call('XCLAIM', KEYS[1], group, released, 0, id,
    'IDLE', idle, 'RETRYCOUNT', deliveries, 'JUSTID')
  count = count + 1
end
if remove == '1' and not redis.call('XPENDING', KEYS[1], group, '-', '+', 1, me)[1] then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, me)
end
return count
