-- uses: claim
-- ARGV: run, 1 when more VMs follow in another call, then vm, facts, vm, facts, ...
local run, more = ARGV[1], ARGV[2] == '1'
local key = KEY.run .. run
local state = redis.call('HGET', key, 'state')
if not state then
  return redis.error_reply('UNKNOWN run ' .. run .. ' is not in the ledger')
elseif state == 'ended' and #ARGV > 2 then
  return redis.error_reply('LEDGER run ' .. run .. ' has ended; no VM can be added to it')
elseif state == 'ended' then
  return 0
end
redis.call('HSET', key, 'state', 'running')
for i = 3, #ARGV, 2 do
  local vm = KEY.vm .. run .. '/' .. ARGV[i]
  if redis.call('EXISTS', vm) == 0 then
    redis.call('HSET', vm, 'facts', ARGV[i + 1], 'state', 'planning', 'open', 0)
    redis.call('RPUSH', KEY.vms .. run, ARGV[i])
    redis.call('HINCRBY', key, 'left', 1)
    add_step(run, 'plan-vm', ARGV[i])
  end
end
-- Those that came first may be finished before the last is here.
if more then
  redis.call('HSET', key, 'adding', 1)
else
  redis.call('HDEL', key, 'adding')
  if redis.call('HGET', key, 'left') == '0' then
    add_step(run, 'end-run', '')
  end
end
return 1
