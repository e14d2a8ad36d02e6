-- uses: epoch, slot
-- ARGV: pool, host. Every slot below the cap, and those above it that are still in use.
local place = ARGV[1] .. '/' .. ARGV[2]
local cap = tonumber(redis.call('HGET', KEY.host .. place, 'cap') or 0)
local answer = {}
for number = 0, 15 do
  local slot = read_slot(place, number)
  if number < cap or slot.state ~= 'FREE' then
    local expires = slot.state ~= 'FREE' and redis.call('ZSCORE', KEY.slots .. slot.state, slot_id(slot)) or NOW
    answer[#answer + 1] = {
      number, slot.state, slot.owner or '', slot.disk or '', slot.run or '', slot.fence, tonumber(expires) - NOW, 0, 0,
    }
  end
end
return answer
