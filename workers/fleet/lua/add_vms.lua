-- uses: claim
-- ARGV: run, then vm, facts, vm, facts, ...
local run = ARGV[1]
local key = KEY.run .. run
local state = redis.call('HGET', key, 'state')
if not state then
  return redis.error_reply('UNKNOWN run ' .. run .. ' is not in the ledger')
elseif state == 'ended' then
  return redis.error_reply('LEDGER run ' .. run .. ' has ended; no VM can be added to it')
end
redis.call('HSET', key, 'state', 'running')
for i = 2, #ARGV, 2 do
  local vm = KEY.vm .. run .. '/' .. ARGV[i]
  if redis.call('EXISTS', vm) == 0 then
    redis.call('HSET', vm, 'facts', ARGV[i + 1], 'state', 'planning', 'open', 0)
    redis.call('RPUSH', KEY.vms .. run, ARGV[i])
    redis.call('HINCRBY', key, 'left', 1)
    add_step(run, 'plan-vm', ARGV[i])
  end
end
if redis.call('LLEN', KEY.vms .. run) == 0 then
  add_step(run, 'end-run', '')
end
return 1
