-- Leave the members of an event name, and end the leases whose grant never reached us.
--
-- KEYS  1 hash of the leases  2 hash of the members
-- ARGV  1 consumer  2 mark in its fences  3 number of partitions
local me, mark, total = unpack(ARGV)
redis.call('HDEL', KEYS[2], me)
for number = 0, total - 1 do
  local place = string.format('%.0f', number)
  local fence = redis.call('HGET', KEYS[1], place)
  if fence and string.match(fence, '-(.*)') == mark then
    redis.call('DEL', KEYS[1] .. ':' .. place)
    redis.call('HDEL', KEYS[1], place, place .. ':owner')
  end
end
return 0
