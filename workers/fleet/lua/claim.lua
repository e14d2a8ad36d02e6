-- uses: epoch, slot, group
-- ARGV: grant, owner, request. GRANTED -> OPENING, once, while the grant is fresh. The disk's fields, or nil:
-- late, doubled or pointless.
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
  if tonumber(redis.call('ZSCORE', KEY.slots .. 'GRANTED', slot_id(slot))) <= NOW then
    return nil -- from before a barrier, perhaps: sweep will free it
  end
  local disk = read_disk(disk_id(slot))
  if not disk or disk.state ~= 'streaming' or disk.left <= 0 or is_draining(owner) then
    move(slot, 'FREE')
    wake()
    return nil
  end
  slot.owner, slot.request, slot.claimed, slot.taken = owner, request, NOW, 0
  move(slot, 'OPENING', NOW + TIMING.lease)
  tally('claims')
end
local disk = read_disk(disk_id(slot))
local facts = redis.call('HGET', KEY.facts .. disk.run, disk.uuid)
return {
  disk.vm, disk.snapshot, disk.virtual_size, disk.batches, cjson.encode(read_group(disk.group).hosts),
  tostring(disk.weight), facts, disk.most_attempts, disk.give_up_after,
}
