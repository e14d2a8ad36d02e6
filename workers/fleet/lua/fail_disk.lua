-- uses: epoch, disk
-- ARGV: run, disk, error.
local disk = read_disk(ARGV[1] .. '/' .. ARGV[2])
if not disk then
  return redis.error_reply('UNKNOWN disk ' .. ARGV[2] .. ' is not in run ' .. ARGV[1])
end
end_disk(disk, 'failed', ARGV[3])
return 1
