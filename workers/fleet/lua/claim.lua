-- uses: epoch, slot
-- ARGV: grant, owner, request. GRANTED -> OPENING, once. The disk's fields, or nil: late, doubled or pointless.
local grant, owner, request = grant_at(1), ARGV[7], ARGV[8]
local slot = read_slot(grant.place, grant.number)
if BARRIER > 0 or slot.fence ~= grant.fence or slot.run ~= grant.run or slot.disk ~= grant.disk then
  return nil
end
if slot.state == 'OPENING' then
  if slot.request ~= request then
    return nil
  end
elseif slot.state ~= 'GRANTED' then
  return nil
else
  local disk = read_disk(disk_id(slot))
  if not disk or disk.state ~= 'streaming' or unreserved(disk) == 0 or is_draining(owner) then
    move(slot, 'FREE')
    wake()
    return nil
  end
  slot.owner, slot.request, slot.opened, slot.taken = owner, request, NOW, 0
  move(slot, 'OPENING', NOW + TIMING.lease)
end
return redis.call('HMGET', KEY.disk .. disk_id(slot), 'vm', 'snapshot', 'virtual_size', 'batches', 'hosts',
  'weight', 'facts')
