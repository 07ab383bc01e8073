-- include establish
-- Renew leases, take free partitions up to a fair share, and tell which leases are lost.
--
-- KEYS  1 hash of the leases  2 hash of the members  3 key that holds the number of partitions
--       4 set of event names
-- ARGV  1 consumer  2 mark in its fences  3 milliseconds of a lease  4 number of partitions
--       5 '1' if the consumer wants partitions  6 number that shifts the fair shares  7 event name
--       then for each lease: number of the partition, fence
-- Returns {{{number, owner} of each lost lease}, {{number, fence} of each new one}, fair share}.
--
-- A lease under our own name that we do not know comes from an earlier opening of this bus, or its
-- grant was lost: it is taken again. If the server is out of memory, nothing is taken and the share
-- is -1, because it is unknown which members are alive.
local me, mark, ttl, total, wants, shift, name = unpack(ARGV, 1, 7)
local found = established(KEYS[3], KEYS[4], name, total)
if found ~= tonumber(total) then return redis.error_reply('PARTITIONS ' .. found) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local ends = string.format('%.0f', now + tonumber(ttl))
local full = false
if wants == '1' then
  local said = redis.pcall('HSET', KEYS[2], me, ends)
  full = type(said) == 'table' and said.err
else
  redis.call('HDEL', KEYS[2], me)
end

-- Our fair share: the live members in the order of their names share the partitions.
local live, all = {}, redis.call('HGETALL', KEYS[2])
for at = 1, #all, 2 do
  if tonumber(all[at + 1]) >= now then
    live[#live + 1] = all[at]
  elseif not full then
    redis.call('HDEL', KEYS[2], all[at])
  end
end
table.sort(live)
local share = 0
for rank, each in ipairs(live) do
  if each == me then
    share = math.floor(total / #live)
    -- The shift gives the remainder to other members for each event name.
    if (rank + shift) % #live < total % #live then share = share + 1 end
  end
end

local mine, count, lost, taken = {}, 0, {}, {}
for at = 8, #ARGV, 2 do
  local place, fence = ARGV[at], ARGV[at + 1]
  if redis.call('HGET', KEYS[1], place) == fence then
    if redis.call('PEXPIRE', KEYS[1] .. ':' .. place, ttl) == 0 then
      redis.call('SET', KEYS[1] .. ':' .. place, me, 'PX', ttl)
    end
    mine[place] = true
    count = count + 1
  else
    lost[#lost + 1] = {tonumber(place), redis.call('HGET', KEYS[1], place .. ':owner') or ''}
  end
end
if full then return {lost, taken, -1} end

for number = 0, total - 1 do
  local place = string.format('%.0f', number)
  if count < share and not mine[place] then
    local held = redis.call('HMGET', KEYS[1], place, place .. ':owner')
    local key = KEYS[1] .. ':' .. place
    if not held[1] or held[2] == me or redis.call('EXISTS', key) == 0 then
      redis.call('SET', key, me, 'PX', ttl)
      local fence = redis.call('HINCRBY', KEYS[1], place .. ':count', 1) .. '-' .. mark
      redis.call('HSET', KEYS[1], place, fence, place .. ':owner', me)
      taken[#taken + 1] = {number, fence}
      count = count + 1
    end
  end
end
return {lost, taken, share}
