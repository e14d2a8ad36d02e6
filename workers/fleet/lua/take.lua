-- uses: epoch, verdict
-- ARGV: grant, owner, request.
local slot = own_or_fence(grant_at(1), ARGV[7])
if not slot then
  return { 'FENCE', -1 }
end
return answer(slot, stream_disk(slot), ARGV[8])
