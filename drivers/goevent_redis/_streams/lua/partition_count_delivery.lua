-- include owned
-- Set the number of deliveries of entries that this consumer still owns.
--
-- KEYS  1 stream
-- ARGV  1 group  2 consumer, then for each entry: id, deliveries
-- Returns the entries of other consumers, as {id, owner} each.
local group, me = ARGV[1], ARGV[2]
local lost = {}
for at = 3, #ARGV, 2 do
  local id, count = ARGV[at], ARGV[at + 1]
  local mine, others = owned_of(KEYS[1], group, me, {id})
  if mine[1] then
    redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'RETRYCOUNT', count, 'JUSTID')
  else
    lost[#lost + 1] = others[1]
  end
end
return lost
