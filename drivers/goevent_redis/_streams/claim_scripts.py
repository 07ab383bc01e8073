"""What Redis does in one step to let a bus take pending entries, of which there may be much.

A reply is bounded in bytes: a backlog of large events must not be more than a connection carries.
"""

from __future__ import annotations

from .scripts import Script

WEIGHT = """
local function weight_of(fields)
  local sum = 0
  for _, each in ipairs(fields) do sum = sum + #each + 16 end
  return sum
end
"""

_TAKING = f"""
local group, me, most, largest = unpack(ARGV, 1, 4)
most, largest = tonumber(most), tonumber(largest)
local taken, gone, size = {{}}, {{}}, 0
{WEIGHT}
local function take(id, owner, deliveries, counts)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  local weight = entry and weight_of(entry[2]) or 0
  if size > 0 and size + weight > most then return false end
  size = size + 100
  if not entry then
    redis.call('XACK', KEYS[1], group, id)
    gone[#gone + 1] = id
    return true
  end
  if counts then
    redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'RETRYCOUNT', deliveries + 1, 'JUSTID')
    deliveries = deliveries + 1
  else
    redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'JUSTID')
  end
  if weight > largest then
    taken[#taken + 1] = {{id, {{}}, deliveries, owner}}
  else
    size = size + weight
    taken[#taken + 1] = {{id, entry[2], deliveries, owner}}
  end
  return true
end
"""
"""Takes entries until a reply of `most` bytes is full; those above `largest` without their fields.

It counts a delivery where it is told to. What is gone from the stream is pending no more.
"""

CLAIM = Script(
    _TAKING
    + """
for _, each in ipairs(
  redis.call('XPENDING', KEYS[1], group, 'IDLE', ARGV[5], '-', '+', ARGV[6])
) do
  -- Our own that is idle we do not know of: the reply to an earlier claim of it was lost.
  if not take(each[1], each[2], each[4], each[2] ~= me) then break end
end
return {taken, gone}
"""
)
"""Take idle entries: as XAUTOCLAIM, but it tells deliveries and the owner, too."""

RECOVER = Script(
    _TAKING
    + """
local held, more = {}, 0
for at = 6, #ARGV do held[ARGV[at]] = true end
for _, each in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', 1000000, me)) do
  if not held[each[1]] and not take(each[1], me, each[4], ARGV[5] == '1') then
    more = 1
    break
  end
end
return {taken, gone, more}
"""
)
"""Return our own pending entries that we do not hold, and whether there are more of them."""
