-- uses: claim
-- ARGV: run, vm, facts ('' keeps them).
local run, vm, facts = ARGV[1], ARGV[2], ARGV[3]
local key = KEY.vm .. run .. '/' .. vm
local state = redis.call('HGET', key, 'state')
if not state then
  return redis.error_reply('UNKNOWN VM ' .. vm .. ' is not in run ' .. run)
elseif state == 'streaming' then
  return redis.error_reply('LEDGER VM ' .. vm .. ' of run ' .. run .. ' has disks that still stream')
elseif state == 'finished' then
  return 0
end
redis.call('HSET', key, 'state', 'finished')
for _, disk in ipairs(cjson.decode(redis.call('HGET', key, 'disks') or '[]')) do
  redis.call('DEL', KEY.packs .. run .. '/' .. disk)
end
if facts ~= '' then
  redis.call('HSET', key, 'facts', facts)
end
if redis.call('HINCRBY', KEY.run .. run, 'left', -1) == 0 and redis.call('HEXISTS', KEY.run .. run, 'adding') == 0 then
  add_step(run, 'end-run', '')
end
return 1
