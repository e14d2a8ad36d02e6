-- uses: epoch, disk
-- How many disks have something to reserve and no stream; milliseconds that the oldest of them has waited.
local waiting, oldest = 0, NOW
for _, id in ipairs(redis.call('ZRANGE', KEY.ready, 0, -1)) do
  local disk = read_disk(id)
  if disk.streams == 0 then
    waiting, oldest = waiting + 1, math.min(oldest, disk.started)
  end
end
return { waiting, NOW - oldest }
