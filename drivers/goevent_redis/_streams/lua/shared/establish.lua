-- Note the number of partitions of an event name, unless it is known; return the known number.
-- The number is 1 if the name has a single stream, and 0 if the key holds something else.
local function established(base, names, name, wanted)
  local kind = redis.call('TYPE', base).ok
  if redis.call('SISMEMBER', names, name) == 0 then redis.call('SADD', names, name) end
  if kind == 'none' then
    redis.call('SET', base, wanted)
    return tonumber(wanted)
  end
  if kind ~= 'string' then return 1 end
  return tonumber(redis.call('GET', base)) or 0
end
