-- include last_delivered
-- include weight
-- Take over pending entries of all consumers, in the order of the stream.
--
-- KEYS  1 stream
-- ARGV  1 group  2 consumer  3 consumer of released entries  4 id from which to take  5 most
--       entries  6 most bytes of the reply  7 most bytes of an entry, then the ids that we hold
-- Returns {{{id, fields, deliveries, owner}, ...}, {ids that are gone}, id of the rest or '',
--          last delivered id}.
--
-- Taking a released entry counts a delivery. The delivery of an entry that another consumer may
-- have begun with is counted only when it begins here: an event that kills buses must not use up
-- the deliveries of the events behind it.
local group, me, released, from, room, max_reply, max_entry = unpack(ARGV, 1, 7)
local held, taken, gone, rest, size = {}, {}, {}, '', 0
for at = 8, #ARGV do held[ARGV[at]] = true end
room, max_reply, max_entry = tonumber(room), tonumber(max_reply), tonumber(max_entry)
repeat
  local page = redis.call('XPENDING', KEYS[1], group, from, '+', 200)
  for _, each in ipairs(page) do
    local id, owner, deliveries = each[1], each[2], each[4]
    if #taken == room then
      rest = id
      break
    end
    if not held[id] then
      local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
      local weight = entry and weight_of(entry[2]) or 0
      if size > 0 and size + weight > max_reply then
        rest = id
        break
      end
      if owner == released then deliveries = deliveries + 1 end
      if entry then
        redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
        if weight > max_entry then entry[2], weight = {}, 0 end
        taken[#taken + 1] = {id, entry[2], deliveries, owner}
      else
        redis.call('XACK', KEYS[1], group, id)
        gone[#gone + 1] = id
      end
      size = size + weight + 100
    end
    from = '(' .. id
  end
until #page < 200 or rest ~= ''
return {taken, gone, rest, last_delivered(KEYS[1], group)}
