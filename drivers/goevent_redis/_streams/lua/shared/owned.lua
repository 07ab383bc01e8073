-- Split ids into those that are pending for `me` and the others, as {id, owner} each.
-- The owner is '' for an entry that is not pending.
local function owned_of(stream, group, me, ids)
  local owner, lost, mine = {}, {}, {}
  -- One list of all that we own is cheaper than a question for each of many ids.
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

-- Call `use` with at most `size` values at a time: the stack of Lua is limited.
local function each_part(list, size, use)
  for from = 1, #list, size do
    use(unpack(list, from, math.min(from + size - 1, #list)))
  end
end
