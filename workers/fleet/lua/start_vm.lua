-- uses: epoch, disk
-- ARGV: run, vm, then for each disk: disk, pool, snapshot, virtual_size, batches, weight, hosts, facts, plan,
-- attempts, give_up_after, read_bytes, stored_bytes, done.
-- 1: the disks are the ledger's now, 0: they were already.
local run, vm = ARGV[1], ARGV[2]
local FIRST, EACH = 3, 14
local vm_key = KEY.vm .. run .. '/' .. vm
local state = redis.call('HGET', vm_key, 'state')
if not state then
  return redis.error_reply('UNKNOWN VM ' .. vm .. ' is not in run ' .. run)
elseif state ~= 'planning' then
  return 0
end

local function some_host_is_known(pool, hosts)
  for _, host in ipairs(cjson.decode(hosts)) do
    if redis.call('SISMEMBER', KEY.hosts, pool .. '/' .. host) == 1 then
      return true
    end
  end
  return false
end

for i = FIRST, #ARGV, EACH do
  local disk, pool, batches, hosts = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 4]), ARGV[i + 6]
  local other = redis.call('HGET', KEY.disk .. run .. '/' .. disk, 'vm')
  if other then
    return redis.error_reply('LEDGER disk ' .. disk .. ' is in run ' .. run .. ' already, with VM ' .. other)
  elseif batches > 0 and not some_host_is_known(pool, hosts) then
    return redis.error_reply('LEDGER no host of pool ' .. pool .. ' that sees disk ' .. disk .. ' was registered')
  end
end

local cancelled = redis.call('HGET', KEY.run .. run, 'cancelled')
local count = (#ARGV - FIRST + 1) / EACH
redis.call('HSET', vm_key, 'state', 'streaming', 'open', count)
local virtual = virtual_now()
local started = {}
for i = FIRST, #ARGV, EACH do
  local id = run .. '/' .. ARGV[i]
  local done = 0
  if ARGV[i + 13] ~= '' then
    redis.call('SET', KEY.done .. id, ARGV[i + 13])
    done = redis.call('BITCOUNT', KEY.done .. id)
  end
  redis.call('HSET', KEY.disk .. id, 'state', 'streaming', 'vm', vm, 'pool', ARGV[i + 1],
    'snapshot', ARGV[i + 2], 'virtual_size', ARGV[i + 3], 'batches', ARGV[i + 4], 'weight', ARGV[i + 5],
    'hosts', ARGV[i + 6], 'facts', ARGV[i + 7], 'next', 0, 'done', done, 'read_bytes', ARGV[i + 11], 'stored_bytes', ARGV[i + 12],
    'vft', string.format('%.6f', virtual), 'streams', 0, 'opening', 0, 'attempts', 0, 'not_before', 0,
    'failed_at', 0, 'failures', '{}', 'most_attempts', ARGV[i + 9], 'give_up_after', ARGV[i + 10], 'started', NOW, 'error', '')
  redis.call('SET', KEY.plan .. id, ARGV[i + 8])
  redis.call('RPUSH', KEY.disks .. run, ARGV[i])
  started[#started + 1] = id
end
for _, id in ipairs(started) do
  local disk = read_disk(id)
  if cancelled then
    end_disk(disk, 'cancelled', 'the run was cancelled')
  elseif disk.done == disk.batches then
    end_disk(disk, 'complete', '')
  else
    refresh_ready(disk)
  end
end
if count == 0 then
  redis.call('HSET', vm_key, 'state', 'finishing')
  add_step(run, 'finish-vm', vm)
end
wake()
return 1
