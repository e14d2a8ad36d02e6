-- uses: epoch, host, wake
-- ARGV: grant, owner, outcome, error. -> QUARANTINE; what was reserved and not committed is returned.
local slot = own(grant_at(1), ARGV[7])
if not slot then
  return 0
end
local outcome, error = ARGV[8], ARGV[9]
local id, place, granted = disk_id(slot), slot.place, slot.granted
local rest = outcome == 'CLEAN' and TIMING.linger or TIMING.quarantine
move(slot, 'QUARANTINE', NOW + rest)
if outcome == 'BUSY' then
  note_reject(place)
  local disk = read_disk(id)
  if disk and disk.state == 'streaming' then
    redis.call('HSET', disk.key, 'error', error)
  end
elseif outcome == 'FAILED' or outcome == 'LOST' or outcome == 'STORE_AWAY' then
  note_failure(id, string.match(place, '[^/]*$'), error, granted)
elseif outcome == 'FATAL' then
  local disk = read_disk(id)
  if disk then
    end_disk(disk, 'failed', error)
  end
end
wake()
return 1
