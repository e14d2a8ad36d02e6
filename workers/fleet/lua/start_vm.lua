-- uses: claim, disk, stop, group
-- ARGV: run, vm, then for each disk: disk, pool, snapshot, virtual_size, batches, weight, hosts, facts, plan,
-- attempts, give_up_after, read_bytes, stored_bytes, done (a bitmap).
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

-- The virtual time at which a disk joins its run: that of the least served disk in line, so that a newcomer
-- neither catches up on turns from before it came nor waits for the others' past.
local function least_served()
  local least
  for _, kind in ipairs({ 'first', 'further' }) do
    for _, name in ipairs(redis.call('SMEMBERS', KEY.lines .. kind)) do
      local _, its_run = split_line(name)
      local disk, vft = head_of(kind, name)
      if its_run == run and disk then
        least = math.min(least or vft, vft)
      end
    end
  end
  return least or 0
end

-- Only what differs from a disk that nobody has touched is written, in values of at most 64 bytes: Redis keeps
-- such a hash in one compact piece.
local function write_disk(id, i, virtual)
  local key, done = KEY.disk .. id, 0
  if ARGV[i + 13] ~= '' then
    redis.call('SET', KEY.done .. id, ARGV[i + 13])
    done = redis.call('BITCOUNT', KEY.done .. id)
    redis.call('HSET', key, 'done', done, 'read_bytes', ARGV[i + 11], 'stored_bytes', ARGV[i + 12])
  end
  redis.call('HSET', key, 'state', 'streaming', 'vm', vm, 'snapshot', ARGV[i + 2],
    'group', group_number(ARGV[i + 1], ARGV[i + 6]), 'virtual_size', ARGV[i + 3], 'batches', ARGV[i + 4],
    'left', ARGV[i + 4] - done, 'weight', ARGV[i + 5], 'most_attempts', ARGV[i + 9],
    'give_up_after', ARGV[i + 10], 'started', NOW, 'since', NOW)
  if virtual > 0 then
    redis.call('HSET', key, 'vft', string.format('%.6f', virtual))
  end
  redis.call('HSET', KEY.facts .. run, ARGV[i], ARGV[i + 7])
  redis.call('HSET', KEY.plans .. run, ARGV[i], ARGV[i + 8])
end

local ends_as, why = stopped_as(run)
local count = (#ARGV - FIRST + 1) / EACH
local virtual, disks = least_served(), {}
for i = FIRST, #ARGV, EACH do
  write_disk(run .. '/' .. ARGV[i], i, virtual)
  disks[#disks + 1] = ARGV[i]
end
redis.call('HSET', vm_key, 'state', 'streaming', 'open', count, 'disks', count > 0 and cjson.encode(disks) or '[]')
join_share(run, count)
for i = FIRST, #ARGV, EACH do
  local disk = read_disk(run .. '/' .. ARGV[i])
  if disk.done == disk.batches and ends_as ~= 'cancelled' then
    end_disk(disk, 'complete', '')
  elseif ends_as then
    end_disk(disk, ends_as, why)
  else
    line_up(disk)
  end
end
if count == 0 then
  redis.call('HSET', vm_key, 'state', 'finishing')
  add_step(run, 'finish-vm', vm)
end
wake()
return 1
