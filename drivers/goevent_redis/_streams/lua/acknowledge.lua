-- include owned
-- Acknowledge entries that this consumer still owns.
--
-- KEYS  1 stream
-- ARGV  1 group  2 consumer  3 '1' to delete the entries, too  4 milliseconds for which their
--       handle ids are remembered, or 0  5 prefix of the keys that remember them  6 count
--       then `count` ids, then their handle ids
-- Returns the entries of other consumers, as {id, owner} each.
local group, me, delete, window, done, count = unpack(ARGV, 1, 6)
local ids, handles = {}, {}
for at = 1, tonumber(count) do
  ids[at] = ARGV[6 + at]
  handles[ids[at]] = ARGV[6 + count + at]
end
local mine, lost = owned_of(KEYS[1], group, me, ids)
each_part(mine, 1000, function(...) redis.call('XACK', KEYS[1], group, ...) end)
if delete == '1' then
  each_part(mine, 1000, function(...) redis.call('XDEL', KEYS[1], ...) end)
end
if tonumber(window) > 0 then
  for _, id in ipairs(mine) do
    if handles[id] and handles[id] ~= '' then
      redis.call('SET', done .. handles[id], '1', 'PX', window)
    end
  end
end
return lost
