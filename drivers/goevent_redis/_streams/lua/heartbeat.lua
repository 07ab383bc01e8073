-- include owned
-- Reset the idle time of entries that this consumer still owns: it works on them.
--
-- KEYS  1 stream
-- ARGV  1 group  2 consumer, then ids
-- Returns the entries of other consumers, as {id, owner} each.
local group, me = ARGV[1], ARGV[2]
local mine, lost = owned_of(KEYS[1], group, me, {unpack(ARGV, 3)})
each_part(mine, 1000, function(...)
  local args = {...}
  args[#args + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], group, me, 0, unpack(args))
end)
return lost
