-- uses: epoch, stop
-- ARGV: run. How many disks of the next VMs were ended, and 1 when VMs are left to look at.
local run = ARGV[1]
if redis.call('SISMEMBER', KEY.stopping, run) == 0 then
  return { 0, 0 }
end
local ended, more = stop_more(run)
return { ended, more and 1 or 0 }
