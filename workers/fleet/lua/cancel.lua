-- uses: epoch, disk, step
-- ARGV: run. 1: cancelled by this call, 0: was cancelled or had ended before.
local run = ARGV[1]
local key = KEY.run .. run
local known = redis.call('HMGET', key, 'state', 'cancelled')
if not known[1] then
  return redis.error_reply('UNKNOWN run ' .. run .. ' is not in the ledger')
elseif known[1] == 'ended' or known[2] then
  return 0
end
redis.call('HSET', key, 'cancelled', 1)
for _, uuid in ipairs(redis.call('LRANGE', KEY.disks .. run, 0, -1)) do
  end_disk(read_disk(run .. '/' .. uuid), 'cancelled', 'the run was cancelled')
end
for _, vm in ipairs(redis.call('LRANGE', KEY.vms .. run, 0, -1)) do -- those that wait for their turn wait no more
  redis.call('ZADD', KEY.steps, 'XX', NOW, step_id(run, 'plan-vm', vm))
end
wake()
return 1
