-- Remove consumers that own nothing and have been idle for long.
--
-- KEYS  1 stream
-- ARGV  1 group  2 milliseconds of idleness, then the names of consumers to keep
-- Returns the names of the removed consumers.
local group, idle = ARGV[1], tonumber(ARGV[2])
local keep, removed = {}, {}
for at = 3, #ARGV do keep[ARGV[at]] = true end
for _, list in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
  local each = {}
  for at = 1, #list, 2 do each[list[at]] = list[at + 1] end
  if not keep[each.name] and each.pending == 0 and each.idle > idle then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, each.name)
    removed[#removed + 1] = each.name
  end
end
return removed
