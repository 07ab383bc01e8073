-- include weight
-- Take pending entries for this consumer until the reply is full.
--
-- ARGV  1 group  2 consumer  3 most bytes of the reply  4 most bytes of an entry
--
-- `take` returns false when the reply is full. It counts a delivery if `counts` is true. An
-- entry above the limit comes without its fields. An entry that is gone from its stream is
-- acknowledged, and its id is in `gone`.
local group, me, max_reply, max_entry = unpack(ARGV, 1, 4)
max_reply, max_entry = tonumber(max_reply), tonumber(max_entry)
local taken, gone, size = {}, {}, 0

local function take(id, owner, deliveries, counts)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  local weight = entry and weight_of(entry[2]) or 0
  if size > 0 and size + weight > max_reply then return false end
  size = size + 100
  if not entry then
    redis.call('XACK', KEYS[1], group, id)
    gone[#gone + 1] = id
    return true
  end
  if counts then
    redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'RETRYCOUNT', deliveries + 1, 'JUSTID')
    deliveries = deliveries + 1
  else
    redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'JUSTID')
  end
  if weight > max_entry then
    taken[#taken + 1] = {id, {}, deliveries, owner}
  else
    size = size + weight
    taken[#taken + 1] = {id, entry[2], deliveries, owner}
  end
  return true
end
