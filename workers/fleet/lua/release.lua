-- uses: epoch, host, trouble, wake
-- ARGV: grant, owner, outcome, error. -> QUARANTINE; what was reserved and not committed is returned.
local slot = own(grant_at(1), ARGV[7])
if not slot then
  return 0
end
local outcome, error = ARGV[8], ARGV[9]
if outcome == 'LOST' and slot.state == 'OPENING' then
  -- The host goes on opening for a client that is gone, and so the open stays one in progress; then sweep.
  redis.call('ZADD', KEY.slots .. 'OPENING', 'LT', NOW + TIMING.abandoned_open, slot_id(slot))
  return 1
end
local id, place, granted = disk_id(slot), slot.place, slot.granted
local rest = outcome == 'CLEAN' and TIMING.linger or TIMING.quarantine
move(slot, 'QUARANTINE', NOW + rest)
tally(string.lower(outcome))
if outcome == 'BUSY' then
  note_reject(place)
  local disk = read_disk(id)
  if disk and disk.state == 'streaming' then
    note_trouble(disk, error)
  end
elseif outcome == 'FATAL' then
  local disk = read_disk(id)
  if disk then
    end_disk(disk, 'failed', error)
  end
elseif outcome ~= 'CLEAN' then
  if outcome == 'FAILED' then
    note_host_failure(place, granted)
  end
  note_failure(id, string.match(place, '[^/]*$'), outcome, error, granted)
end
wake()
return 1
