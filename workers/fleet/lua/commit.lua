-- uses: epoch, verdict
-- ARGV: grant, owner, batch, read_bytes, stored_bytes. Counts the batch unless it was counted, ends the disk
-- with its last batch, and answers with the next batch.
local slot = own(grant_at(1), ARGV[7])
if not slot then
  return { 'FENCE', -1 }
end
local batch, read_bytes, stored_bytes = tonumber(ARGV[8]), ARGV[9], ARGV[10]
for i, held in ipairs(slot.batches) do
  if held == batch then
    table.remove(slot.batches, i)
    break
  end
end
local disk = stream_disk(slot)
if disk and disk.state == 'streaming' then
  if batch < 0 or batch >= disk.batches then
    return redis.error_reply('LEDGER disk ' .. slot.disk .. ' has no batch ' .. batch)
  end
  if redis.call('SETBIT', KEY.done .. disk.id, batch, 1) == 0 then
    redis.call('HINCRBY', disk.key, 'read_bytes', read_bytes)
    redis.call('HINCRBY', disk.key, 'stored_bytes', stored_bytes)
    redis.call('HSET', disk.key, 'attempts', 0)
    if redis.call('HINCRBY', disk.key, 'done', 1) == disk.batches then
      end_disk(disk, 'complete', '')
    end
  end
end
return answer(slot, disk, 'commit ' .. batch)
