-- uses: epoch, step, wake, line, share
-- One disk of one run: which batches are still to be reserved, and how the disk ends.
local TEXTS = { state = true, vm = true, snapshot = true, failures = true, line = true }
-- A field that is not there has not been needed yet: thousands of disks wait, and most need few.
local UNSET = {
  next = 0, done = 0, read_bytes = 0, stored_bytes = 0, vft = 0, streams = 0, opening = 0, attempts = 0,
  setbacks = 0, failed_at = 0, not_before = 0, troubled = 0, failures = '{}', line = '',
}
local DISK = { __index = UNSET }

local function read_disk(id)
  local fields = redis.call('HGETALL', KEY.disk .. id)
  if #fields == 0 then
    return nil
  end
  local run, uuid = string.match(id, '^(.*)/([^/]*)$')
  local disk = { id = id, key = KEY.disk .. id, run = run, uuid = uuid }
  for i = 1, #fields, 2 do
    disk[fields[i]] = TEXTS[fields[i]] and fields[i + 1] or tonumber(fields[i + 1])
  end
  return setmetatable(disk, DISK)
end

local function set_error(disk, error)
  if error ~= '' then
    redis.call('HSET', KEY.errors .. disk.run, disk.uuid, error)
  end
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
  -- A batch past `next` is done already when its pack was in the bucket, or when Redis lost its last moments.
  while disk.next < disk.batches do
    local batch = disk.next
    disk.next = batch + 1
    if redis.call('GETBIT', done, batch) == 0 then
      return batch
    end
  end
  return nil
end

-- Takes the next batch, returned ones first, and charges the disk and its run for it.
local function reserve(disk)
  if disk.left <= 0 then
    return nil
  end
  local batch = next_unreserved(disk)
  if batch then
    disk.left = disk.left - 1
    disk.vft = disk.vft + 1 / disk.weight
    charge_run(disk.run, 1 / disk.weight)
  else
    disk.left = 0
  end
  redis.call('HSET', disk.key, 'next', disk.next, 'left', disk.left, 'vft', string.format('%.6f', disk.vft))
  line_up(disk)
  return batch
end

-- Who calls this lines the disk up afterwards.
local function give_back(id, batches)
  if #batches == 0 or redis.call('HGET', KEY.disk .. id, 'state') ~= 'streaming' then
    return
  end
  for _, batch in ipairs(batches) do
    if redis.call('GETBIT', KEY.done .. id, batch) == 0 then
      redis.call('RPUSH', KEY.returned .. id, batch)
      redis.call('HINCRBY', KEY.disk .. id, 'left', 1)
    end
  end
end

-- A batch was committed by a stream that did not reserve it: its reservation was in what Redis lost.
local function strike(disk, batch)
  if batch >= disk.next or redis.call('LREM', KEY.returned .. disk.id, 1, batch) > 0 then
    disk.left = disk.left - 1
    redis.call('HSET', disk.key, 'left', disk.left)
  end
end

-- streaming -> complete | failed | cancelled, once; the VM's last disk to end makes its finish-vm step.
local function end_disk(disk, state, error)
  if disk.state ~= 'streaming' then
    return
  end
  disk.state = state
  redis.call('HSET', disk.key, 'state', state, 'ended', NOW)
  if state == 'complete' then
    redis.call('HDEL', KEY.errors .. disk.run, disk.uuid)
  else
    set_error(disk, error)
  end
  line_up(disk)
  leave_share(disk.run)
  redis.call('ZREM', KEY.troubled, disk.id)
  redis.call('DEL', KEY.done .. disk.id, KEY.returned .. disk.id)
  redis.call('HDEL', KEY.plans .. disk.run, disk.uuid)
  local vm = KEY.vm .. disk.run .. '/' .. disk.vm
  if redis.call('HINCRBY', vm, 'open', -1) == 0 and redis.call('HGET', vm, 'state') == 'streaming' then
    redis.call('HSET', vm, 'state', 'finishing')
    add_step(disk.run, 'finish-vm', disk.vm)
  end
  wake()
end
