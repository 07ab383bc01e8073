-- Find the ends of several streams.
--
-- KEYS  the streams
-- Returns for each key: the id of the last entry that was ever added; '' if there is no such key;
--          the number of partitions if the key is a text; 0 if it holds something else.
local found = {}
for at, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'stream' then
    local told = redis.call('XINFO', 'STREAM', key)
    for place = 1, #told, 2 do
      if told[place] == 'last-generated-id' then found[at] = told[place + 1] end
    end
  elseif kind == 'none' then
    found[at] = ''
  else
    found[at] = kind == 'string' and tonumber(redis.call('GET', key)) or 0
  end
end
return found
