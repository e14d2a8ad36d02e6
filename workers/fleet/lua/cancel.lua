-- uses: epoch, stop
-- ARGV: run. 1: cancelled by this call, 0: was cancelled or had ended before. Its disks end with stop_more.
local run = ARGV[1]
local key = KEY.run .. run
local known = redis.call('HMGET', key, 'state', 'cancelled')
if not known[1] then
  return redis.error_reply('UNKNOWN run ' .. run .. ' is not in the ledger')
elseif known[1] == 'ended' or known[2] then
  return 0
end
redis.call('HSET', key, 'cancelled', 1)
begin_to_stop(run)
return 1
