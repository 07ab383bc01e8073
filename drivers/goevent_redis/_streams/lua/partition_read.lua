-- include last_delivered
-- include weight
-- Read new entries, if the group is where the consumer believes it to be.
--
-- KEYS  1 stream
-- ARGV  1 group  2 consumer  3 last delivered id, as the consumer believes  4 most entries
--       5 most bytes of the reply  6 most bytes of an entry
-- Returns {last delivered id, {{id, fields}, ...}}, or {last delivered id} if it is another one.
--
-- It is another one if the reply to an earlier read was lost, if an earlier reply was full before
-- all its entries were in it, or if the group was created anew. A large entry comes without
-- fields.
local group, me, after, count, max_reply, max_entry = unpack(ARGV)
local last = last_delivered(KEYS[1], group)
if not last then return redis.error_reply('NOGROUP the group is gone') end
if last ~= after then return {last} end
local got = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', count, 'STREAMS', KEYS[1], '>')
local found, size = {}, 0
for _, each in ipairs(got and got[1][2] or {}) do
  local weight = weight_of(each[2])
  if size > 0 and size + weight > tonumber(max_reply) then break end
  if weight > tonumber(max_entry) then each[2], weight = {}, 0 end
  found[#found + 1] = each
  size = size + weight + 100
end
return {last, found}
