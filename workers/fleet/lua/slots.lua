-- uses: epoch, host
-- ARGV: pool, host. Every slot below the cap, and those above it that are still in use.
local place = ARGV[1] .. '/' .. ARGV[2]
local host = read_host(place)
local answer = {}
for number = 0, 15 do
  local slot = read_slot(place, number)
  if (host and number < host.cap) or slot.state ~= 'FREE' then
    local expires = tonumber(slot.state ~= 'FREE' and redis.call('ZSCORE', KEY.slots .. slot.state, slot_id(slot)) or NOW)
    local stuck = slot.state == 'QUARANTINE' and host and host.must_confirm and expires <= host.counted
    answer[#answer + 1] = {
      number, slot.state, slot.owner or '', slot.disk or '', slot.run or '', slot.fence,
      math.max(0, expires - NOW), NOW - (slot.since or NOW), stuck and 1 or 0,
    }
  end
end
return answer
