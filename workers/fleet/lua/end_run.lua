-- uses: claim
-- ARGV: run, result. From now on the run's keys expire.
local run, result = ARGV[1], ARGV[2]
local key = KEY.run .. run
local known = redis.call('HMGET', key, 'state', 'left')
if not known[1] then
  return redis.error_reply('UNKNOWN run ' .. run .. ' is not in the ledger')
elseif known[1] == 'ended' then
  return 0
elseif tonumber(known[2]) > 0 then
  return redis.error_reply('LEDGER run ' .. run .. ' has ' .. known[2] .. ' VMs that are not finished')
end
redis.call('HSET', key, 'state', 'ended', 'result', result, 'ended', NOW)
local function expire(name)
  redis.call('PEXPIRE', name, TIMING.keep_ended)
end
for _, of_run in ipairs({ KEY.run, KEY.vms, KEY.disks, KEY.facts, KEY.errors }) do
  expire(of_run .. run)
end
for _, vm in ipairs(redis.call('LRANGE', KEY.vms .. run, 0, -1)) do
  expire(KEY.vm .. run .. '/' .. vm)
end
for _, disk in ipairs(redis.call('LRANGE', KEY.disks .. run, 0, -1)) do
  expire(KEY.disk .. run .. '/' .. disk)
end
return 1
