"""What Redis does in one step about partitions: scripts that look at the fence of a lease first.

The leases of a name are a hash. Of the partition 3 the field `3` is the fence, `3:owner` who has
it, and `3:count` the number with which the last fence began, which stays. It is over when a key is
gone that the server lets expire, `<hash>:3`; then it counts until somebody else takes it. Neither
renewing nor giving away needs memory: a server that is full can be relieved.
"""

from __future__ import annotations

from functools import cache

from redis import exceptions as redis_errors

from ..claim_scripts import WEIGHT
from ..scripts import OWNED, Call, Script
from .lease import Lease

FENCED = "FENCED"

_FENCE = f"""
local fence, place, leases = table.remove(ARGV), table.remove(ARGV), table.remove(KEYS)
if redis.call('HGET', leases, place) ~= fence then
  return redis.error_reply('{FENCED} ' .. (redis.call('HGET', leases, place .. ':owner') or ''))
end
"""


def fenced(call: Call, lease: Lease | None) -> Call:
    """Return a call that does what another one does, if the lease is still the one that counts.

    If not, its reply is an error that `fenced_by` knows.
    """
    if lease is None:
        return call
    script, keys, args = call
    partition = lease.partition
    return _behind_fence(script), (*keys, partition.key), (*args, partition.number, lease.fence)


@cache
def _behind_fence(script: Script) -> Script:
    return Script(_FENCE + script.source)


def fenced_by(error: Exception) -> str | None:
    """Return who has the partition now, if an error says that the fence has changed."""
    said = str(error)
    if isinstance(error, redis_errors.ResponseError) and said.startswith(FENCED):
        return said.removeprefix(FENCED).strip()
    return None


_ESTABLISH = """
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
"""

ESTABLISH = Script(
    _ESTABLISH
    + """
return established(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
"""
)
"""Note how many partitions a name has, if nobody has; return how many it has."""

_LAST = """
local function last_of(stream, group)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, list in ipairs(groups) do
    local each = {}
    for at = 1, #list, 2 do each[list[at]] = list[at + 1] end
    if each.name == group then return each['last-delivered-id'] end
  end
end
"""

READ = Script(
    _LAST
    + WEIGHT
    + """
local group, me, after, count, most, largest = unpack(ARGV)
local last = last_of(KEYS[1], group)
if not last then return redis.error_reply('NOGROUP the group is gone') end
if last ~= after then return {last} end
local got = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', count, 'STREAMS', KEYS[1], '>')
local found, size = {}, 0
for _, each in ipairs(got and got[1][2] or {}) do
  local weight = weight_of(each[2])
  if size > 0 and size + weight > tonumber(most) then break end
  if weight > tonumber(largest) then each[2], weight = {}, 0 end
  found[#found + 1] = each
  size = size + weight + 100
end
return {last, found}
"""
)
"""Read what is new, if the group is where we think it is; else say where it is.

It is elsewhere if an earlier read was done whose reply was lost, or if the group was made anew, or
if the reply would have been above `most` bytes. Entries above `largest` come without their fields.
"""

TAKE = Script(
    _LAST
    + WEIGHT
    + """
local group, me, heir, from, room, most, largest = unpack(ARGV, 1, 7)
local held, taken, gone, rest, size = {}, {}, {}, '', 0
for at = 8, #ARGV do held[ARGV[at]] = true end
room, most, largest = tonumber(room), tonumber(most), tonumber(largest)
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
      if size > 0 and size + weight > most then
        rest = id
        break
      end
      if owner == heir then deliveries = deliveries + 1 end
      if entry then
        redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
        if weight > largest then entry[2], weight = {}, 0 end
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
return {taken, gone, rest, last_of(KEYS[1], group)}
"""
)
"""Take over what is pending in the order of the stream, whoever has it, and say where to go on.

What was handed back is delivered by that. What others may have begun with is counted when it is
begun with here: an event that kills buses must not count for those that wait behind it.
"""

RETRY = Script(
    OWNED
    + """
local group, me = ARGV[1], ARGV[2]
local lost = {}
for at = 3, #ARGV, 2 do
  local id, count = ARGV[at], ARGV[at + 1]
  local mine, gone = owned_of(KEYS[1], group, me, {id})
  if mine[1] then
    redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'RETRYCOUNT', count, 'JUSTID')
  else
    lost[#lost + 1] = gone[1]
  end
end
return lost
"""
)
"""Note that entries which are still ours are delivered so often; return the others."""

TEND = Script(
    _ESTABLISH
    + """
local me, mark, ttl, total, wants, shift, name = unpack(ARGV, 1, 7)
local found = established(KEYS[3], KEYS[4], name, total)
if found ~= tonumber(total) then return redis.error_reply('PARTITIONS ' .. found) end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local ends = string.format('%.0f', now + tonumber(ttl))
local full = false
if wants == '1' then
  local said = redis.pcall('HSET', KEYS[2], me, ends)
  full = type(said) == 'table' and said.err
else
  redis.call('HDEL', KEYS[2], me)
end
local live, all = {}, redis.call('HGETALL', KEYS[2])
for at = 1, #all, 2 do
  if tonumber(all[at + 1]) >= now then
    live[#live + 1] = all[at]
  elseif not full then
    redis.call('HDEL', KEYS[2], all[at])
  end
end
table.sort(live)
local share = 0
for rank, each in ipairs(live) do
  if each == me then
    share = math.floor(total / #live)
    -- What is left over goes to others for each name.
    if (rank + shift) % #live < total % #live then share = share + 1 end
  end
end
local mine, count, lost, taken = {}, 0, {}, {}
for at = 8, #ARGV, 2 do
  local place, fence = ARGV[at], ARGV[at + 1]
  if redis.call('HGET', KEYS[1], place) == fence then
    if redis.call('PEXPIRE', KEYS[1] .. ':' .. place, ttl) == 0 then
      redis.call('SET', KEYS[1] .. ':' .. place, me, 'PX', ttl)
    end
    mine[place] = true
    count = count + 1
  else
    lost[#lost + 1] = {tonumber(place), redis.call('HGET', KEYS[1], place .. ':owner') or ''}
  end
end
if full then return {lost, taken, -1} end
for number = 0, total - 1 do
  local place = string.format('%.0f', number)
  if count < share and not mine[place] then
    local held = redis.call('HMGET', KEYS[1], place, place .. ':owner')
    local key = KEYS[1] .. ':' .. place
    if not held[1] or held[2] == me or redis.call('EXISTS', key) == 0 then
      redis.call('SET', key, me, 'PX', ttl)
      local fence = redis.call('HINCRBY', KEYS[1], place .. ':count', 1) .. '-' .. mark
      redis.call('HSET', KEYS[1], place, fence, place .. ':owner', me)
      taken[#taken + 1] = {number, fence}
      count = count + 1
    end
  end
end
return {lost, taken, share}
"""
)
"""Renew leases, take what is free up to a fair share, and tell what is lost and how much is fair.

A lease of our own name that we do not know of is from an earlier life, or its grant was lost. If
the server is full, nothing is taken, and the share is -1: nobody can tell who is alive.
"""

HAND_BACK = Script("""
local group, me, heir = unpack(ARGV, 1, 3)
local fate = {}
for at = 4, #ARGV, 2 do fate[ARGV[at]] = ARGV[at + 1] end
for _, each in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', 1000000, me)) do
  local id, deliveries = each[1], each[4]
  if not fate[id] then deliveries = math.max(deliveries - 1, 0) end
  if fate[id] ~= 'keep' then
    redis.call('XCLAIM', KEYS[1], group, heir, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
  end
end
if not redis.call('XPENDING', KEYS[1], group, '-', '+', 1, me)[1] then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, me)
end
return 0
""")
"""Give our entries of a stream to the heir: those that are told as they are, others uncounted.

Those to `keep` stay with our name: somebody else may have died of them.
"""

DROP = Script("""
local place = ARGV[1]
redis.call('DEL', leases .. ':' .. place)
return redis.call('HDEL', leases, place, place .. ':owner')
""")
"""End a lease; only behind a fence, which knows where the leases are."""

QUIT = Script("""
local me, mark, total = unpack(ARGV)
redis.call('HDEL', KEYS[2], me)
for number = 0, total - 1 do
  local place = string.format('%.0f', number)
  local fence = redis.call('HGET', KEYS[1], place)
  if fence and string.match(fence, '-(.*)') == mark then
    redis.call('DEL', KEYS[1] .. ':' .. place)
    redis.call('HDEL', KEYS[1], place, place .. ':owner')
  end
end
return 0
""")
"""Take part no more, and end those leases, too, of whose grant we have not heard."""
