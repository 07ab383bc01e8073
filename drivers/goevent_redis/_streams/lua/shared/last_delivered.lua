-- Return the id of the last entry that a group has delivered; nil if there is no such group.
local function last_delivered(stream, group)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, list in ipairs(groups) do
    local each = {}
    for at = 1, #list, 2 do each[list[at]] = list[at + 1] end
    if each.name == group then return each['last-delivered-id'] end
  end
end
