-- include weight
-- Read entries of several streams without a group, until the reply is full.
--
-- KEYS  the streams
-- ARGV  1 most bytes of the reply  2 most bytes of an entry  3... the id behind which each begins
-- Returns for each stream a list of {id, fields}. An entry above the limit comes without fields.
local max_reply, max_entry = tonumber(ARGV[1]), tonumber(ARGV[2])
local PIECE = 16
local size, found = 0, {}

for at, key in ipairs(KEYS) do
  local entries, from = {}, ARGV[at + 2]
  while size < max_reply do
    local piece = redis.call('XRANGE', key, '(' .. from, '+', 'COUNT', PIECE)
    for _, entry in ipairs(piece) do
      if size >= max_reply then break end
      local weight = weight_of(entry[2])
      if weight > max_entry then entry, weight = {entry[1], {}}, 0 end
      size = size + weight + 64
      from = entry[1]
      entries[#entries + 1] = entry
    end
    if #piece < PIECE then break end
  end
  found[at] = entries
end
return found
