-- uses: epoch, slot
-- ARGV: owner, then grants of six. One 1 or 0 a grant: still the caller's?
local owner = ARGV[1]
local answer = {}
for i = 2, #ARGV, 6 do
  local slot = own_or_fence(grant_at(i), owner)
  if slot then
    renew_lease(slot)
  end
  answer[#answer + 1] = slot and 1 or 0
end
return answer
