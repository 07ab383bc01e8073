-- Inspect a stream: its pending entries, the position of the group, the replayed events.
--
-- KEYS  1 stream  2 hash of the marks of the group  3 stream of replayed events
-- ARGV  1 group  2 '1' to remove all that every group has acknowledged
--       3 time in ms of the oldest entry that was not delivered, as last seen; '' to look for it
-- Returns {pending, lag or -1, milliseconds since the oldest pending entry was published, last
--          delivered id, highest id that may have been delivered before a group was created anew,
--          length, 1 if there are replayed events, milliseconds since the oldest entry that was
--          not delivered was published, and the time in ms of that entry; both are 0 without one}.
--
-- The script stores the id up to which everything is acknowledged: a group that vanishes begins
-- anew there.
local group, trim = ARGV[1], ARGV[2]

local function pairs_of(list)
  local found = {}
  for at = 1, #list, 2 do found[list[at]] = list[at + 1] end
  return found
end

-- Return the id next to another one, before it or behind it.
local function shifted(id, by)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  if by < 0 and seq == '0' then
    return string.format('%.0f-18446744073709551615', math.max(tonumber(ms) - 1, 0))
  end
  if by > 0 and seq == '18446744073709551615' then
    return string.format('%.0f-0', tonumber(ms) + 1)
  end
  return ms .. '-' .. string.format('%.0f', tonumber(seq) + by)
end

local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
local ours, least = nil, nil
if groups.err then
  if redis.call('EXISTS', KEYS[1]) == 1 then return groups end
  return redis.error_reply('NOGROUP the stream is gone')
end

-- Compare as texts: the numbers may be too large for Lua's.
local function earlier(a, b)
  local am, as = string.match(a, '(%d+)-(%d+)')
  local bm, bs = string.match(b, '(%d+)-(%d+)')
  if #am ~= #bm then return #am < #bm end
  if am ~= bm then return am < bm end
  if #as ~= #bs then return #as < #bs end
  return as < bs
end

-- `least` is the first id that some group has not acknowledged.
for _, list in ipairs(groups) do
  local each = pairs_of(list)
  local first = each.pending > 0 and redis.call('XPENDING', KEYS[1], each.name, '-', '+', 1)[1]
  each.first = first and first[1]
  each.next = each.first or shifted(each['last-delivered-id'], 1)
  if not least or earlier(each.next, least) then least = each.next end
  if each.name == group then ours = each end
end
if not ours then return redis.error_reply('NOGROUP the group is gone') end
local mark = ours.first and shifted(ours.first, -1) or ours['last-delivered-id']
-- A server that is out of memory refuses the mark, but the trimming behind it relieves the server.
redis.pcall('HSET', KEYS[2], KEYS[1], mark)
if trim == '1' then redis.call('XTRIM', KEYS[1], 'MINID', least) end
local lag = ours.lag
if not lag then lag = -1 end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local age, waiting, oldest = 0, 0, 0
if ours.first then age = now - string.match(ours.first, '%d+') end
if lag ~= 0 then
  local last = ours['last-delivered-id']
  if ARGV[3] == '' then
    -- The reply has the whole entry, which may be large, so the caller asks for this rarely.
    local next = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1]
    oldest = next and tonumber(string.match(next[1], '%d+')) or 0
  else
    -- If that entry has been delivered meanwhile, the next one is not older than the delivered one.
    oldest = math.max(tonumber(ARGV[3]), tonumber(string.match(last, '%d+')))
  end
  if oldest > 0 then waiting = now - oldest end
end
return {ours.pending, lag, math.max(age, 0), ours['last-delivered-id'],
  redis.call('HGET', KEYS[2], KEYS[1] .. '|high') or '0',
  redis.call('XLEN', KEYS[1]), redis.call('EXISTS', KEYS[3]),
  math.max(waiting, 0), oldest}
