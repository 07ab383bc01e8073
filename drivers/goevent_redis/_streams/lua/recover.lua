-- include take
-- Return pending entries of our own that we do not hold.
--
-- ARGV  5 '1' to count a delivery, then the ids that we hold
-- Returns {{{id, fields, deliveries, owner}, ...}, {ids that are gone}, 1 if there is more}.
local held, more = {}, 0
for at = 6, #ARGV do held[ARGV[at]] = true end
for _, each in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', 1000000, me)) do
  if not held[each[1]] and not take(each[1], me, each[4], ARGV[5] == '1') then
    more = 1
    break
  end
end
return {taken, gone, more}
