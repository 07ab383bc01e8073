-- include take
-- Take idle entries of other consumers, as XAUTOCLAIM does, and tell their deliveries and owners.
--
-- ARGV  5 milliseconds of idleness  6 most entries
-- Returns {{{id, fields, deliveries, owner}, ...}, {ids that are gone from the stream}}.
for _, each in ipairs(
  redis.call('XPENDING', KEYS[1], group, 'IDLE', ARGV[5], '-', '+', ARGV[6])
) do
  -- An idle entry of our own is one that we do not know: the reply to an earlier claim was lost.
  -- That claim counted the delivery.
  if not take(each[1], each[2], each[4], each[2] ~= me) then break end
end
return {taken, gone}
