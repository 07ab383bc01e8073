-- include owned
-- Write a dead letter, then acknowledge its entry, if this consumer still owns it.
--
-- KEYS  1 stream  2 stream of dead letters
-- ARGV  1 group  2 consumer  3 id  4 '1' to delete the entry, too
--       then the fields of the dead letter
-- Returns {} or {{id, owner}} for an entry of another consumer.
local group, me, id, delete = unpack(ARGV, 1, 4)
local mine, lost = owned_of(KEYS[1], group, me, {id})
if mine[1] then
  redis.call('XADD', KEYS[2], '*', unpack(ARGV, 5))
  redis.call('XACK', KEYS[1], group, id)
  if delete == '1' then redis.call('XDEL', KEYS[1], id) end
end
return lost
