-- uses: slot, host, node
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

-- Would this slot's end let `other` start? It lacks a process, or only this host's slots.
local free_at = {}
local function blocked_by(slot, other, no_process)
  local has_slot, shares_host = false, false
  for _, uuid in ipairs(cjson.decode(other.hosts)) do
    local place = other.pool .. '/' .. uuid
    if free_at[place] == nil then
      local host = read_host(place)
      free_at[place] = host ~= nil and free_slots(host) > 0
    end
    has_slot = has_slot or free_at[place]
    shares_host = shares_host or place == slot.place
  end
  return (has_slot and no_process) or (not has_slot and shares_host)
end

-- Are there more disks without a stream that wait for this turn than streams already told to yield? Only
-- disks that were served less are waited for, unless this disk has another stream anyway. The 64 least
-- served disks are looked at: no more streams will yield within one turn.
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
  local waiting = 0
  for _, id in ipairs(redis.call('ZRANGE', KEY.ready, 0, 63)) do
    local other = read_disk(id)
    if other.streams == 0 and other.not_before <= NOW and (other.vft < disk.vft or disk.streams > 1)
        and blocked_by(slot, other, no_process) then
      waiting = waiting + 1
      if waiting > told then
        redis.call('ZADD', KEY.yielding, NOW, slot_id(slot))
        return true
      end
    end
  end
  return false
end

local function turn_is_over(slot)
  return slot.taken >= LIMIT.quantum_batches or NOW - slot.opened >= TIMING.quantum
end

-- The verdict and, for CONTINUE, the next batch, reserved. The same request again (its answer was lost) is
-- answered the same and reserves nothing.
local function answer(slot, disk, request)
  if slot.request ~= request then
    local verdict, batch = may_stop_now(slot, disk), nil
    if verdict == 'CONTINUE' and #slot.batches < LIMIT.reserve then
      if turn_is_over(slot) and others_wait(slot, disk) then
        verdict = 'YIELD'
      else
        batch = reserve(disk)
        if batch then
          slot.batches[#slot.batches + 1] = batch
          slot.taken = slot.taken + 1
        else
          verdict = 'EMPTY'
        end
      end
    end
    slot.request, slot.answer = request, { verdict, batch or -1 }
    save(slot)
  end
  renew_lease(slot)
  return slot.answer
end
