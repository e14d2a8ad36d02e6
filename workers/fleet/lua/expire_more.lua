-- uses: epoch
-- ARGV: run. The next VMs of an ended run, and their disks, expire with it. 1: VMs are left.
local run = ARGV[1]
local first = redis.call('HGET', KEY.run .. run, 'expire_next')
if not first then
  return 0
end
local vms = redis.call('LRANGE', KEY.vms .. run, first, first + LIMIT.vms_at_once - 1)
for _, vm in ipairs(vms) do
  local key = KEY.vm .. run .. '/' .. vm
  redis.call('PEXPIRE', key, TIMING.keep_ended)
  for _, disk in ipairs(cjson.decode(redis.call('HGET', key, 'disks') or '[]')) do
    redis.call('PEXPIRE', KEY.disk .. run .. '/' .. disk, TIMING.keep_ended)
  end
end
if #vms < LIMIT.vms_at_once then
  redis.call('HDEL', KEY.run .. run, 'expire_next')
  return 0
end
redis.call('HSET', KEY.run .. run, 'expire_next', first + #vms)
return 1
