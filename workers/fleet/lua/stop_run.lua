-- uses: epoch, stop
-- ARGV: run, error. 1: stopped by this call, 0: was stopped, cancelled or had ended before. Its disks end with stop_more.
local run, error = ARGV[1], ARGV[2]
local key = KEY.run .. run
local known = redis.call('HMGET', key, 'state', 'cancelled', 'stopped')
if not known[1] then
  return redis.error_reply('UNKNOWN run ' .. run .. ' is not in the ledger')
elseif known[1] == 'ended' or known[2] or known[3] then
  return 0
end
redis.call('HSET', key, 'stopped', error)
begin_to_stop(run)
return 1
