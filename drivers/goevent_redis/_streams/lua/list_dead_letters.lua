-- Return dead letters until the reply is full; at least one, if there is one.
--
-- KEYS  1 stream of dead letters
-- ARGV  1 id from which they are listed  2 most letters  3 most bytes of the reply
local from, count, max_reply = ARGV[1], ARGV[2], tonumber(ARGV[3])
local found, size = {}, 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', count)) do
  for _, each in ipairs(entry[2]) do size = size + #each + 16 end
  if found[1] and size > max_reply then break end
  found[#found + 1] = entry
end
return found
