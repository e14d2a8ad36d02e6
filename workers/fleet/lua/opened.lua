-- uses: epoch, host, wake
-- ARGV: grant, owner. OPENING -> HELD; the host serves us, so its troubles are over. 1: go on, 0: not yours.
local slot = own_or_fence(grant_at(1), ARGV[7])
if not slot then
  return 0
end
if slot.state == 'OPENING' then
  slot.opened = NOW
  move(slot, 'HELD', NOW + TIMING.lease)
  redis.call('HDEL', KEY.host .. slot.place, 'rejects', 'failed', 'closed_until')
  redis.call('HSET', KEY.host .. slot.place, 'answered', 1)
  tally('opens')
  wake()
elseif not slot.opened then
  saw_open(slot)
  save(slot)
end
return 1
