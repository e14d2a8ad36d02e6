-- uses: claim
-- ARGV: run, result. From now on the run's keys expire: its own at once, those of VMs and disks with expire_more.
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
redis.call('HSET', key, 'state', 'ended', 'result', result, 'ended', NOW, 'expire_next', 0)
for _, of_run in ipairs({ KEY.run, KEY.vms, KEY.facts, KEY.errors }) do
  redis.call('PEXPIRE', of_run .. run, TIMING.keep_ended)
end
return 1
