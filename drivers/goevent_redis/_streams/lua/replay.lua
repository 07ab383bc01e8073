-- Copy a range of entries to the stream of the events that one group gets again.
--
-- KEYS  1 stream  2 stream of replayed events
-- ARGV  1 first id  2 last id  3 most entries
-- Returns {number of entries, id of the last one}.
--
-- Of each entry the fields e, r and k are copied: event, retried flag and key. The field o is the
-- id of the original.
local from, to, count = unpack(ARGV)
local entries = redis.call('XRANGE', KEYS[1], from, to, 'COUNT', count)
local last = ''
for _, entry in ipairs(entries) do
  last = entry[1]
  local copy = {}
  for at = 1, #entry[2], 2 do
    local name = entry[2][at]
    if (name == 'e' or name == 'r' or name == 'k') and #copy < 6 then
      copy[#copy + 1] = name
      copy[#copy + 1] = entry[2][at + 1]
    end
  end
  redis.call('XADD', KEYS[2], '*', 'o', last, unpack(copy))
end
return {#entries, last}
