-- Refuse to run the script behind this prefix unless the lease of a partition still has our fence.
--
-- The last key is the hash of the leases. The last arguments are the number of the partition and
-- the fence; all three are removed here, so that the script finds its own keys and arguments.
local fence, place, leases = table.remove(ARGV), table.remove(ARGV), table.remove(KEYS)
if redis.call('HGET', leases, place) ~= fence then
  return redis.error_reply('FENCED ' .. (redis.call('HGET', leases, place .. ':owner') or ''))
end
