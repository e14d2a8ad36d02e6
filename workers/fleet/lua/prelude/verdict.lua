-- uses: slot, host, node, group
-- What a stream is told.
local function may_stop_now(slot, disk)
  if not disk or disk.state == 'cancelled' then
    return 'CANCEL'
  elseif disk.state ~= 'streaming' then
    return 'EMPTY'
  elseif is_draining(slot.owner) then
    return 'DRAIN'
  end
  return 'CONTINUE'
end

-- Would this slot's end let disks of that group start? They lack a process, or only this host's slots.
local free_at = {}
local function blocks(slot, number, no_process)
  local has_slot, shares_host = false, false
  for _, place in ipairs(read_group(number).places) do
    if free_at[place] == nil then
      local host = read_host(place)
      free_at[place] = host ~= nil and host.opens < opens_allowed(host) and free_slots(host) > 0
    end
    has_slot = has_slot or free_at[place]
    shares_host = shares_host or place == slot.place
  end
  return (has_slot and no_process) or (not has_slot and shares_host)
end

-- How many disks of this line does a turn of this disk's stream keep waiting? Of its own run those without a
-- stream that were served less, or all of them when this disk has another stream anyway. Of a run that was
-- served less all that have none, and, when it is behind by a whole turn, also those that want one more.
local function kept_waiting(kind, name, run, disk, share)
  if run == disk.run then
    if kind == 'further' then
      return 0
    elseif disk.streams == 1 then
      return redis.call('ZCOUNT', line_key(kind, name), '-inf', '(' .. string.format('%.6f', disk.vft))
    end
  else
    local behind = (share[disk.run] or 0) - (share[run] or math.huge)
    if behind <= (kind == 'further' and LIMIT.quantum_batches or 0) then
      return 0
    end
  end
  return redis.call('ZCARD', line_key(kind, name))
end

-- Do more disks wait for this turn than streams were told to yield already?
local function others_wait(slot, disk)
  if redis.call('ZSCORE', KEY.yielding, slot_id(slot)) then
    return true
  end
  if NOW - (slot.asked or 0) < TIMING.ask_every then
    return false
  end
  slot.asked = NOW
  local told = redis.call('ZCARD', KEY.yielding)
  local no_process = spare_processes() <= 0
  local share = {}
  for _, each in ipairs(runs_by_share()) do
    share[each.run] = each.vft
  end
  local waiting = 0
  for _, kind in ipairs({ 'first', 'further' }) do
    for _, name in ipairs(redis.call('SMEMBERS', KEY.lines .. kind)) do
      local group, run = split_line(name)
      local more = kept_waiting(kind, name, run, disk, share)
      if more > 0 and blocks(slot, group, no_process) then
        waiting = waiting + more
        if waiting > told then
          redis.call('ZADD', KEY.yielding, NOW, slot_id(slot))
          tally('yielded')
          return true
        end
      end
    end
  end
  return false
end

local function turn_is_over(slot)
  return slot.taken >= LIMIT.quantum_batches or NOW - (slot.opened or slot.claimed) >= TIMING.quantum
end

-- The verdict and, for CONTINUE, the next batch, reserved if it may be.
local function next_batch(slot, disk, may_reserve)
  local verdict = may_stop_now(slot, disk)
  if verdict ~= 'CONTINUE' or not may_reserve or #slot.batches >= LIMIT.reserve then
    return verdict, -1
  elseif turn_is_over(slot) and others_wait(slot, disk) then
    return 'YIELD', -1
  end
  local batch = reserve(disk)
  if not batch then
    return 'EMPTY', -1
  end
  slot.batches[#slot.batches + 1] = batch
  slot.taken = slot.taken + 1
  return verdict, batch
end

-- Two threads of a stream call at the same time: one takes, one commits. redis-py sends a call whose answer it
-- did not get again, and the other thread's call, or a later one of its own, may have come between. So of each
-- kind (`take`, `commit`) the last call is remembered with its answer: {name, verdict, batch}.
local function answer_again(slot, kind)
  renew_lease(slot)
  return { slot[kind][2], slot[kind][3] }
end

local function answer(slot, disk, kind, name, may_reserve)
  local verdict, batch = next_batch(slot, disk, may_reserve)
  saw_open(slot)
  if may_reserve then -- else it was a call that came late, and must not be taken for the last one
    slot[kind] = { name, verdict, batch }
  end
  save(slot)
  renew_lease(slot)
  return { verdict, batch }
end
