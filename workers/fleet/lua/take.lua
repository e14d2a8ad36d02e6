-- uses: epoch, verdict
-- ARGV: grant, owner, number. Reserves the next batch, once a number: one that is not larger than the last is a
-- call that was sent again, and perhaps came through late.
local slot, number = own_or_fence(grant_at(1), ARGV[7]), ARGV[8]
if not slot then
  return { 'FENCE', -1 }
elseif slot.take and tonumber(number) <= tonumber(slot.take[1]) then
  return answer_again(slot, 'take')
end
return answer(slot, stream_disk(slot), 'take', number, true)
