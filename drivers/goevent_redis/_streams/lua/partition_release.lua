-- Release the entries of this consumer when it gives a partition away.
--
-- KEYS  1 stream
-- ARGV  1 group  2 consumer  3 consumer of released entries, then for some entries: id, 'give' or
--       'keep'
--
-- An entry with 'give' keeps its number of deliveries, because a listener has begun with it. An
-- entry with 'keep' stays ours: its previous consumer may have died of it, so the next one must run
-- it isolated, too. All other entries have one delivery less.
local group, me, released = unpack(ARGV, 1, 3)
local word = {}
for at = 4, #ARGV, 2 do word[ARGV[at]] = ARGV[at + 1] end
for _, each in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', 1000000, me)) do
  local id, deliveries = each[1], each[4]
  if not word[id] then deliveries = math.max(deliveries - 1, 0) end
  if word[id] ~= 'keep' then
    redis.call('XCLAIM', KEYS[1], group, released, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
  end
end
if not redis.call('XPENDING', KEYS[1], group, '-', '+', 1, me)[1] then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, me)
end
return 0
