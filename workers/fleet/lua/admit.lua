-- uses: epoch, host, node, group, wake
-- ARGV: limit. Grants slots to disks; never more than idle processes can take. One row a grant.
-- The least served run goes first; of its disks first those without a stream, then those that want one more,
-- the least served first. Only heads of lines are looked at, so it does not matter how many disks wait.
if BARRIER > 0 then
  return {}
end

-- Those whose back-off is over stand in line again; so many at a time.
local MOST = 200
local delayed = redis.call('ZRANGEBYSCORE', KEY.delayed, '-inf', NOW, 'LIMIT', 0, MOST)
if #delayed == MOST then
  wake()
end
for _, id in ipairs(delayed) do
  local disk = read_disk(id)
  if disk then
    line_up(disk)
  else
    redis.call('ZREM', KEY.delayed, id)
  end
end

local budget = math.min(tonumber(ARGV[1]), spare_processes())
if budget <= 0 then
  return {}
end

local hosts = {}
local function host_at(place)
  if hosts[place] == nil then
    hosts[place] = read_host(place) or false
  end
  return hosts[place]
end

local function can_open(host)
  return host and host.opens < opens_allowed(host) and free_slots(host) > 0
end

local function some_host_can_open(group)
  for _, place in ipairs(read_group(group).places) do
    if can_open(host_at(place)) then
      return true
    end
  end
  return false
end

-- The candidate host where this disk failed least, then the one with most free slots.
local function choose_host(disk)
  local failures = cjson.decode(disk.failures)
  local group = read_group(disk.group)
  local best, best_failures, best_free
  for i, uuid in ipairs(group.hosts) do
    local host = host_at(group.places[i])
    local failed = failures[uuid] or 0
    if can_open(host) then
      local free = free_slots(host)
      if not best or failed < best_failures or (failed == best_failures and free > best_free) then
        best, best_failures, best_free = host, failed, free
      end
    end
  end
  return best
end

local function grant(disk, host)
  local slots = read_slots(host.place)
  local slot
  for number = host.cap - 1, 0, -1 do
    slot = slots[number].state == 'FREE' and slots[number] or slot
  end
  -- Never a fence again, not even after Redis was emptied: the clock is part of it.
  slot.fence = math.max(slot.fence + 1, NOW)
  slot.run, slot.disk, slot.snapshot = disk.run, disk.uuid, disk.snapshot
  slot.granted, slot.batches = NOW, {}
  move(slot, 'GRANTED', NOW + TIMING.grant)
  hosts[host.place] = nil
  tally('grants')
  local pool, uuid = string.match(host.place, '^(.*)/([^/]*)$')
  return { pool, uuid, slot.number, slot.fence, slot.run, slot.disk }
end

local heads = { first = {}, further = {} } -- run -> line -> {disk, vft}
for kind, of_runs in pairs(heads) do
  for _, name in ipairs(redis.call('SMEMBERS', KEY.lines .. kind)) do
    local group, run = split_line(name)
    local disk, vft = head_of(kind, name)
    if disk then
      of_runs[run] = of_runs[run] or {}
      of_runs[run][name] = { disk = disk, vft = vft, group = group }
    else
      redis.call('SREM', KEY.lines .. kind, name)
    end
  end
end

-- The head that comes next among a run's lines of one kind, of those with a host to open on.
local function next_head(kind, run)
  local best, best_name
  for name, head in pairs(heads[kind][run] or {}) do
    local sooner = not best or head.vft < best.vft or (head.vft == best.vft and name < best_name)
    if sooner and some_host_can_open(head.group) then
      best, best_name = head, name
    end
  end
  return best, best_name
end

local function grant_one(run)
  for _, kind in ipairs({ 'first', 'further' }) do
    local head, name = next_head(kind, run)
    if head then
      local disk = read_disk(run .. '/' .. head.disk)
      local row = grant(disk, choose_host(disk))
      head.disk, head.vft = head_of(kind, name)
      if not head.disk then
        heads[kind][run][name] = nil
      end
      return row, LIMIT.quantum_batches / disk.weight
    end
  end
  return nil
end

-- A grant is charged at once with the turn that it is likely to be, or one run would get all that is free now.
local runs = runs_by_share()
local grants = {}
while #grants < budget do
  table.sort(runs, function(one, other)
    return one.vft < other.vft or (one.vft == other.vft and one.run < other.run)
  end)
  local row, charge
  for _, each in ipairs(runs) do
    row, charge = grant_one(each.run)
    if row then
      note_served(each.vft)
      each.vft = each.vft + charge
      break
    end
  end
  if not row then
    return grants
  end
  grants[#grants + 1] = row
end
return grants
