-- uses: epoch, verdict, trouble
-- ARGV: grant, owner, batch, read_bytes, stored_bytes, pack (its hash, 16 bytes, or ''). Counts the batch unless it was counted, ends the disk
-- with its last batch, and answers with the next batch in place of one that was held or is counted now: a call
-- that was sent again gets no further one, however late it comes.
local slot = own_or_fence(grant_at(1), ARGV[7])
if not slot then
  return { 'FENCE', -1 }
elseif slot.commit and slot.commit[1] == tonumber(ARGV[8]) then
  return answer_again(slot, 'commit')
end
local batch, read_bytes, stored_bytes = tonumber(ARGV[8]), ARGV[9], ARGV[10]
local reserved, counted = false, false
for i, held in ipairs(slot.batches) do
  if held == batch then
    table.remove(slot.batches, i)
    reserved = true
    break
  end
end
local disk = stream_disk(slot)
if disk and disk.state == 'streaming' then
  if batch < 0 or batch >= disk.batches then
    return redis.error_reply('LEDGER disk ' .. slot.disk .. ' has no batch ' .. batch)
  end
  if redis.call('SETBIT', KEY.done .. disk.id, batch, 1) == 0 then
    counted = true
    disk.done = disk.done + 1
    if ARGV[11] ~= '' then
      redis.call('SETRANGE', KEY.packs .. disk.id, batch * 16, ARGV[11])
    end
    redis.call('HINCRBY', disk.key, 'read_bytes', read_bytes)
    redis.call('HINCRBY', disk.key, 'stored_bytes', stored_bytes)
    redis.call('HSET', disk.key, 'done', disk.done)
    if not reserved then
      strike(disk, batch)
    end
    forgive(disk)
    note_success(slot.place)
    tally('batches')
    if disk.done == disk.batches then
      end_disk(disk, 'complete', '')
    end
  end
end
return answer(slot, disk, 'commit', batch, reserved or counted)
