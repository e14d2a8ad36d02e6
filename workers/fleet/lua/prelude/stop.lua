-- uses: epoch, disk, step
-- A run that was cancelled, or stopped at its window's end, is gone through VM by VM, so many in one call: some thousand
-- disks at once would keep Redis from the streams for a second. KEY.stopping has such runs until that is done; sweep
-- goes on where the caller died. What is planned later ends in start_vm, what is put off later is due at once.
local function begin_to_stop(run)
  redis.call('HDEL', KEY.run .. run, 'stop_next')
  redis.call('SADD', KEY.stopping, run)
end

-- How the disks of a run end now, and why; nil when they stream.
local function stopped_as(run)
  local told = redis.call('HMGET', KEY.run .. run, 'cancelled', 'stopped')
  if told[1] then
    return 'cancelled', 'the run was cancelled'
  end
  return told[2] and 'failed' or nil, told[2]
end

local function stop_vm(run, vm, state, error)
  local known = redis.call('HMGET', KEY.vm .. run .. '/' .. vm, 'state', 'disks')
  local ended = 0
  if known[1] == 'planning' then
    local id = step_id(run, 'plan-vm', vm)
    local permit = redis.call('HGET', KEY.permit .. id, 'state')
    if permit == 'waiting' or permit == 'ready' then
      redis.call('ZADD', KEY.steps, 'XX', NOW, id)
    end
  elseif known[1] == 'streaming' then
    for _, uuid in ipairs(cjson.decode(known[2])) do
      local disk = read_disk(run .. '/' .. uuid)
      if disk.state == 'streaming' then
        end_disk(disk, state, error)
        ended = ended + 1
      end
    end
  end
  return ended
end

-- The next VMs. How many disks were ended, and whether more VMs are left.
local function stop_more(run)
  local first = tonumber(redis.call('HGET', KEY.run .. run, 'stop_next') or 0)
  local vms = redis.call('LRANGE', KEY.vms .. run, first, first + LIMIT.vms_at_once - 1)
  local state, error = stopped_as(run)
  local ended = 0
  for _, vm in ipairs(vms) do
    ended = ended + stop_vm(run, vm, state, error)
  end
  wake()
  if #vms < LIMIT.vms_at_once then
    redis.call('SREM', KEY.stopping, run)
    return ended, false
  end
  redis.call('HSET', KEY.run .. run, 'stop_next', first + #vms)
  return ended, true
end
