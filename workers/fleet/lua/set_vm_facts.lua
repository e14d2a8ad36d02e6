-- uses: claim
-- ARGV: run, vm, facts. 0: the VM is finished, and keeps what its finish said.
local key = KEY.vm .. ARGV[1] .. '/' .. ARGV[2]
local state = redis.call('HGET', key, 'state')
if not state then
  return redis.error_reply('UNKNOWN VM ' .. ARGV[2] .. ' is not in run ' .. ARGV[1])
elseif state == 'finished' then
  return 0
end
redis.call('HSET', key, 'facts', ARGV[3])
return 1
