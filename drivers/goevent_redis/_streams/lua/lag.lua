-- Tell the backlog of a group in several streams.
--
-- KEYS  the streams
-- ARGV  1 group
-- Returns for each stream: the number of partitions if the key is a text; {} if the group does not
--          read it; or {pending, lag or -1, milliseconds since the oldest pending entry was
--          published, the same for the oldest entry that was not delivered}.
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)

local function age_of(id)
  return math.max(now - string.match(id, '%d+'), 0)
end

local function group_in(stream)
  for _, list in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local each = {}
    for at = 1, #list, 2 do each[list[at]] = list[at + 1] end
    if each.name == ARGV[1] then return each end
  end
end

local function backlog_of(stream)
  local group = group_in(stream)
  if not group then return {} end
  local pending, waiting = 0, 0
  if group.pending > 0 then
    local first = redis.call('XPENDING', stream, ARGV[1], '-', '+', 1)[1]
    pending = first and age_of(first[1]) or 0
  end
  if group.lag ~= 0 then
    local first = redis.call('XRANGE', stream, '(' .. group['last-delivered-id'], '+', 'COUNT', 1)[1]
    waiting = first and age_of(first[1]) or 0
    -- The server does not know the number after some deletions, but nothing is nothing.
    if not first then group.lag = 0 end
  end
  return {group.pending, group.lag or -1, pending, waiting}
end

local found = {}
for at, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'stream' then
    found[at] = backlog_of(key)
  else
    found[at] = kind == 'string' and tonumber(redis.call('GET', key)) or {}
  end
end
return found
