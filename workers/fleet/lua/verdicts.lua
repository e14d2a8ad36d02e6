-- uses: epoch, verdict
-- ARGV: owner, then grants of six. One verdict a grant, as far as it needs no commit: FENCE, CANCEL, EMPTY, DRAIN.
local owner = ARGV[1]
local answer = {}
for i = 2, #ARGV, 6 do
  local slot = own(grant_at(i), owner)
  answer[#answer + 1] = slot and may_stop_now(slot, stream_disk(slot)) or 'FENCE'
end
return answer
