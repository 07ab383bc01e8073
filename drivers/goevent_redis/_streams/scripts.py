"""What Redis does in one step: Lua scripts, and how they are called.

Each of them looks at who owns an entry before it does anything to it: a plain XACK or XCLAIM of an
entry succeeds for whoever asks, also for a consumer that was frozen while another one took over.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any

from redis import exceptions as redis_errors

from .._link.link import Link
from .._link.resp import Encodable


class Script:
    """A script, with the name under which the server may have it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest()


Call = tuple[Script, Sequence[Encodable], Sequence[Encodable]]
"""A script, its keys and its arguments."""


async def call_many(
    link: Link, calls: Sequence[Call], *, first: Sequence[tuple[Encodable, ...]] = ()
) -> list[Any]:
    """Call scripts in one piece; error replies stand in the list as exceptions.

    Args:
        first: commands to be sent before, whose replies are dropped.
    """
    asked = [("EVALSHA", s.sha, len(keys), *keys, *args) for s, keys, args in calls]
    replies = (await link.pipeline([*first, *asked]))[len(first) :]
    # The server forgets scripts when it is restarted, or told to.
    unknown = [
        at for at, reply in enumerate(replies) if isinstance(reply, redis_errors.NoScriptError)
    ]
    if unknown:
        whole = [
            ("EVAL", s.source, len(keys), *keys, *args)
            for s, keys, args in (calls[at] for at in unknown)
        ]
        for at, reply in zip(unknown, await link.pipeline(whole), strict=True):
            replies[at] = reply
    return replies


async def call(link: Link, script: Script, keys: Sequence[Encodable], *args: Encodable) -> Any:
    """Call one script.

    Raises:
        redis.exceptions.RedisError: It failed, or there is no connection.
    """
    (reply,) = await call_many(link, [(script, keys, args)])
    if isinstance(reply, Exception):
        raise reply
    return reply


OWNED = """
local function owned_of(stream, group, me, ids)
  local owner, lost, mine = {}, {}, {}
  if #ids > 16 then
    local pending = redis.call('XPENDING', stream, group, '-', '+', 1000000, me)
    for _, each in ipairs(pending) do owner[each[1]] = me end
  end
  for _, id in ipairs(ids) do
    if not owner[id] then
      local found = redis.call('XPENDING', stream, group, id, id, 1)
      if found[1] then owner[id] = found[1][2] end
    end
    if owner[id] == me then
      mine[#mine + 1] = id
    else
      lost[#lost + 1] = {id, owner[id] or ''}
    end
  end
  return mine, lost
end
local function each_part(list, size, use)
  for from = 1, #list, size do
    use(unpack(list, from, math.min(from + size - 1, #list)))
  end
end
"""

ACKNOWLEDGE = Script(
    OWNED
    + """
local group, me, delete, window, done, count = unpack(ARGV, 1, 6)
local ids, handles = {}, {}
for at = 1, tonumber(count) do
  ids[at] = ARGV[6 + at]
  handles[ids[at]] = ARGV[6 + count + at]
end
local mine, lost = owned_of(KEYS[1], group, me, ids)
each_part(mine, 1000, function(...) redis.call('XACK', KEYS[1], group, ...) end)
if delete == '1' then
  each_part(mine, 1000, function(...) redis.call('XDEL', KEYS[1], ...) end)
end
if tonumber(window) > 0 then
  for _, id in ipairs(mine) do
    if handles[id] and handles[id] ~= '' then
      redis.call('SET', done .. handles[id], '1', 'PX', window)
    end
  end
end
return lost
"""
)
"""Acknowledge entries that are still ours; return the others with their owners."""

RELEASE = Script(
    OWNED
    + """
local group, me, heir = unpack(ARGV, 1, 3)
local lost = {}
for at = 4, #ARGV, 3 do
  local id, idle, count = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local mine, gone = owned_of(KEYS[1], group, me, {id})
  if mine[1] then
    redis.call('XCLAIM', KEYS[1], group, heir, 0, id, 'IDLE', idle, 'RETRYCOUNT', count, 'JUSTID')
  else
    lost[#lost + 1] = gone[1]
  end
end
return lost
"""
)
"""Give entries that are still ours to the heir; return the others with their owners."""

BURY = Script(
    OWNED
    + """
local group, me, id, delete = unpack(ARGV, 1, 4)
local mine, lost = owned_of(KEYS[1], group, me, {id})
if mine[1] then
  redis.call('XADD', KEYS[2], '*', unpack(ARGV, 5))
  redis.call('XACK', KEYS[1], group, id)
  if delete == '1' then redis.call('XDEL', KEYS[1], id) end
end
return lost
"""
)
"""Write a dead letter, then acknowledge its entry, if that is still ours."""

BEAT = Script(
    OWNED
    + """
local group, me = ARGV[1], ARGV[2]
local mine, lost = owned_of(KEYS[1], group, me, {unpack(ARGV, 3)})
each_part(mine, 1000, function(...)
  local args = {...}
  args[#args + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], group, me, 0, unpack(args))
end)
return lost
"""
)
"""Tell that entries that are still ours are worked on; return the others with their owners."""

LEAVE = Script("""
local group, me, heir, idle, remove = unpack(ARGV, 1, 5)
local started, count = {}, 0
for at = 6, #ARGV do started[ARGV[at]] = true end
for _, each in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', 1000000, me)) do
  local id, deliveries = each[1], each[4]
  if not started[id] then deliveries = math.max(deliveries - 1, 0) end
  redis.call('XCLAIM', KEYS[1], group, heir, 0, id,
    'IDLE', idle, 'RETRYCOUNT', deliveries, 'JUSTID')
  count = count + 1
end
if remove == '1' and not redis.call('XPENDING', KEYS[1], group, '-', '+', 1, me)[1] then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, me)
end
return count
""")
"""Give all our entries to the heir, those uncounted that nobody began with, and take our leave."""

JOIN = Script("""
local group, from = ARGV[1], ARGV[2]
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], group, from, 'MKSTREAM')
if not made.err then
  if from == '$' then
    local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
    from = last and last[1] or '0'
  end
  redis.call('HSET', KEYS[2], KEYS[1], from)
  return 1
end
if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
return made
""")
"""Create the group where it is to begin, unless it exists."""

MEND = Script("""
local group, fallback, makes = ARGV[1], ARGV[2], ARGV[3]
local there = redis.call('EXISTS', KEYS[1]) == 1
local from = '0'
if not there and makes == '0' then return {'none', from, from} end
if there then from = redis.call('HGET', KEYS[2], KEYS[1]) or fallback end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], group, from, 'MKSTREAM')
if made.err then
  if not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
  return {'', from, redis.call('HGET', KEYS[2], KEYS[1] .. '|high') or '0'}
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local high = last and last[1] or '0'
redis.call('HSET', KEYS[2], KEYS[1], from, KEYS[1] .. '|high', high)
return {there and 'group' or 'stream', from, high}
""")
"""Create a group anew that has vanished: behind what it is known to have acknowledged.

What lies between that and the last entry may have been handed out before; the marks say so, too.
"""

LOOK = Script("""
local group, trim = ARGV[1], ARGV[2]
local function pairs_of(list)
  local found = {}
  for at = 1, #list, 2 do found[list[at]] = list[at + 1] end
  return found
end
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
local function earlier(a, b)
  local am, as = string.match(a, '(%d+)-(%d+)')
  local bm, bs = string.match(b, '(%d+)-(%d+)')
  if #am ~= #bm then return #am < #bm end
  if am ~= bm then return am < bm end
  if #as ~= #bs then return #as < #bs end
  return as < bs
end
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
redis.pcall('HSET', KEYS[2], KEYS[1], mark) -- a full server has to be relieved
if trim == '1' then redis.call('XTRIM', KEYS[1], 'MINID', least) end
local lag = ours.lag
if not lag then lag = -1 end
local age = 0
if ours.first then
  local now = redis.call('TIME')
  age = now[1] * 1000 + math.floor(now[2] / 1000) - string.match(ours.first, '%d+')
end
return {ours.pending, lag, math.max(age, 0), ours['last-delivered-id'],
  redis.call('HGET', KEYS[2], KEYS[1] .. '|high') or '0',
  redis.call('XLEN', KEYS[1]), redis.call('EXISTS', KEYS[3])}
""")
"""Look at a stream: what is pending, where we are, and whether there is anything once more.

Notes up to where everything is acknowledged, and removes it, if asked to.
"""

TIDY = Script("""
local group, idle = ARGV[1], tonumber(ARGV[2])
local keep, gone = {}, {}
for at = 3, #ARGV do keep[ARGV[at]] = true end
for _, list in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
  local each = {}
  for at = 1, #list, 2 do each[list[at]] = list[at + 1] end
  if not keep[each.name] and each.pending == 0 and each.idle > idle then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, each.name)
    gone[#gone + 1] = each.name
  end
end
return gone
""")
"""Remove consumers that have shown no life for long and own nothing; return them."""

REPLAY = Script("""
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
""")
"""Copy a range of entries to where one group gets them once more."""

REVIVE = Script("""
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return 0 end
local key = {}
for at = 1, #found[2], 2 do
  if found[2][at] == 'k' then key = {'k', found[2][at + 1]} end
end
redis.call('XADD', KEYS[2], '*', 'o', ARGV[2], 'e', ARGV[3], unpack(key))
return redis.call('XDEL', KEYS[1], ARGV[1])
""")
"""Move a dead letter to where its group gets it once more."""
