-- Return about how many bytes the fields of an entry take in a reply.
local function weight_of(fields)
  local sum = 0
  for _, each in ipairs(fields) do sum = sum + #each + 16 end
  return sum
end
