-- End a lease. This script runs only behind shared/fence.lua, which defines `leases`.
--
-- ARGV  1 number of the partition
local place = ARGV[1]
redis.call('DEL', leases .. ':' .. place)
return redis.call('HDEL', leases, place, place .. ':owner')
