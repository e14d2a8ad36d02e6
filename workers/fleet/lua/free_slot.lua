-- uses: epoch, slot, wake
-- ARGV: pool, host, number. The operator's release. 1: done, 0: it was free.
local slot = read_slot(ARGV[1] .. '/' .. ARGV[2], tonumber(ARGV[3]))
if slot.state == 'FREE' then
  return 0
elseif CONNECTED[slot.state] then
  move(slot, 'QUARANTINE', NOW + TIMING.quarantine)
else
  move(slot, 'FREE')
end
wake()
return 1
