-- uses: epoch, host, wake
-- ARGV: grant, owner. OPENING -> HELD; the host serves us, so its rejects are over. 1: go on, 0: not yours.
local slot = own(grant_at(1), ARGV[7])
if not slot then
  return 0
end
if slot.state == 'OPENING' then
  slot.opened = NOW
  move(slot, 'HELD', NOW + TIMING.lease)
  redis.call('HDEL', KEY.host .. slot.place, 'rejects', 'closed_until')
  wake()
end
return 1
