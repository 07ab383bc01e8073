-- include owned
-- Give entries that this consumer still owns to the consumer of released entries.
--
-- KEYS  1 stream
-- ARGV  1 group  2 consumer  3 consumer of released entries
--       then for each entry: id, milliseconds for which it is to count as idle, deliveries
-- Returns the entries of other consumers, as {id, owner} each.
local group, me, released = unpack(ARGV, 1, 3)
local lost = {}
for at = 4, #ARGV, 3 do
  local id, idle, count = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local mine, others = owned_of(KEYS[1], group, me, {id})
  if mine[1] then
    redis.call('XCLAIM', KEYS[1], group, released, 0, id,
      'IDLE', idle, 'RETRYCOUNT', count, 'JUSTID')
  else
    lost[#lost + 1] = others[1]
  end
end
return lost
