-- uses: epoch, host, wake
-- ARGV: pool, host, number, request. The operator's release, one state further. 1: done (or this very request
-- did it), 0: it was free.
local place = ARGV[1] .. '/' .. ARGV[2]
local slot = read_slot(place, tonumber(ARGV[3]))
if slot.freed == ARGV[4] then
  return 1
elseif slot.state == 'FREE' then
  return 0
elseif CONNECTED[slot.state] then
  move(slot, 'QUARANTINE', NOW + TIMING.quarantine)
else
  local host = read_host(place)
  local rests_until = tonumber(redis.call('ZSCORE', KEY.slots .. slot.state, slot_id(slot)))
  if slot.state == 'QUARANTINE' and host and host.must_confirm and rests_until <= host.counted then
    redis.call('HINCRBY', host.key, 'waived', 1)
  end
  move(slot, 'FREE')
end
slot.freed = ARGV[4]
save(slot)
tally('released_by_hand')
wake()
return 1
