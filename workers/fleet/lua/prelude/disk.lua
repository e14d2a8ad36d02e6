-- uses: epoch, step, wake
-- One disk of one run: which batches are still to be reserved, and how the disk ends.
local FIELDS = {
  'state', 'vm', 'pool', 'hosts', 'batches', 'next', 'done', 'weight', 'vft',
  'streams', 'opening', 'attempts', 'most_attempts', 'not_before', 'failed_at', 'failures', 'started',
}
local NUMBERS = {
  batches = true, next = true, done = true, weight = true, vft = true, streams = true, opening = true,
  attempts = true, most_attempts = true, not_before = true, failed_at = true, started = true,
}

local function read_disk(id)
  local values = redis.call('HMGET', KEY.disk .. id, unpack(FIELDS))
  if not values[1] then
    return nil
  end
  local disk = { id = id, key = KEY.disk .. id, run = string.match(id, '^(.*)/') }
  for i, field in ipairs(FIELDS) do
    disk[field] = NUMBERS[field] and tonumber(values[i]) or values[i]
  end
  return disk
end

local function unreserved(disk)
  return disk.batches - disk.next + redis.call('LLEN', KEY.returned .. disk.id)
end

-- KEY.ready holds exactly the disks with something to reserve, by virtual finish time.
local function refresh_ready(disk)
  if disk.state == 'streaming' and unreserved(disk) > 0 then
    redis.call('ZADD', KEY.ready, string.format('%.6f', disk.vft), disk.id)
  else
    redis.call('ZREM', KEY.ready, disk.id)
  end
end

-- The virtual time at which a disk joins: that of the least served disk, so that a newcomer neither
-- catches up on turns from before it came nor waits for the others' past. It never goes back.
local function virtual_now()
  local least = redis.call('ZRANGE', KEY.ready, 0, 0, 'WITHSCORES')[2]
  local virtual = math.max(tonumber(redis.call('GET', KEY.vtime) or 0), tonumber(least or 0))
  redis.call('SET', KEY.vtime, string.format('%.6f', virtual))
  return virtual
end

local function next_unreserved(disk)
  local done = KEY.done .. disk.id
  while true do
    local batch = redis.call('LPOP', KEY.returned .. disk.id)
    if not batch then
      break
    end
    if redis.call('GETBIT', done, batch) == 0 then
      return tonumber(batch)
    end
  end
  -- A batch past `next` is done already only when Redis lost its last moments and the holder committed.
  while disk.next < disk.batches do
    local batch = disk.next
    disk.next = batch + 1
    if redis.call('GETBIT', done, batch) == 0 then
      return batch
    end
  end
  return nil
end

-- Takes the next batch, returned ones first, and charges the disk for it.
local function reserve(disk)
  local batch = next_unreserved(disk)
  if batch then
    disk.vft = disk.vft + 1 / disk.weight
  end
  redis.call('HSET', disk.key, 'next', disk.next, 'vft', string.format('%.6f', disk.vft))
  refresh_ready(disk)
  return batch
end

local function give_back(id, batches)
  local disk = read_disk(id)
  if not disk or disk.state ~= 'streaming' then
    return
  end
  for _, batch in ipairs(batches) do
    if redis.call('GETBIT', KEY.done .. id, batch) == 0 then
      redis.call('RPUSH', KEY.returned .. id, batch)
    end
  end
  refresh_ready(disk)
end

-- streaming -> complete | failed | cancelled, once; the VM's last disk to end makes its finish-vm step.
local function end_disk(disk, state, error)
  if disk.state ~= 'streaming' then
    return
  end
  disk.state = state
  redis.call('HSET', disk.key, 'state', state, 'ended', NOW, 'error', error)
  redis.call('ZREM', KEY.ready, disk.id)
  redis.call('DEL', KEY.plan .. disk.id, KEY.done .. disk.id, KEY.returned .. disk.id)
  local vm = KEY.vm .. disk.run .. '/' .. disk.vm
  if redis.call('HINCRBY', vm, 'open', -1) == 0 and redis.call('HGET', vm, 'state') == 'streaming' then
    redis.call('HSET', vm, 'state', 'finishing')
    add_step(disk.run, 'finish-vm', disk.vm)
  end
  wake()
end

-- One stream failed. Streams that were granted before the last counted failure fell with it (one dead host
-- ends several at once) and are not counted again.
local function note_failure(id, host, error, granted)
  local disk = read_disk(id)
  if not disk or disk.state ~= 'streaming' then
    return
  end
  local failures = cjson.decode(disk.failures)
  failures[host] = (failures[host] or 0) + 1
  redis.call('HSET', disk.key, 'failures', cjson.encode(failures), 'error', error)
  if granted <= disk.failed_at then
    return
  end
  disk.attempts = disk.attempts + 1
  local pause = math.min(TIMING.retry_first * 2 ^ (disk.attempts - 1), TIMING.retry_longest)
  redis.call('HSET', disk.key, 'attempts', disk.attempts, 'failed_at', NOW, 'not_before', NOW + pause)
  if disk.attempts >= disk.most_attempts then
    end_disk(disk, 'failed', error)
  end
end
