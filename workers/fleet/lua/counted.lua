-- uses: epoch, host, wake
-- ARGV: pool, host, asked, others, then the snapshot of each VBD of ours in the host's control domain.
-- Frees the rested slots whose connection the host no longer has. 1: believed, 0: too old an answer.
--
-- The count was made at some moment since `asked`; the slots are looked at now. By what they are now:
--
--   HELD, known to be open before `asked`       was plugged, or has ended: explains one VBD
--   GRANTED, OPENING, HELD later or re-asserted  may be plugged or not: explains none
--   QUARANTINE, rest over before `asked`         ended before: if a VBD is its own, it is an orphan
--   QUARANTINE, was open, ended before `asked`    has that VBD, or is not counted by the host any more: its slot
--                                                rests anyway, so it covers one VBD of the excess
--   QUARANTINE, else                             the host may count it without a VBD: covers none
--
-- A VBD that is not explained is taken for an orphan, so too many may be, for a moment, and never too few.
-- However the VBDs are distributed: slots in use + unaccounted >= connections that there are or can be.
local place, asked, others = ARGV[1] .. '/' .. ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local host = read_host(place)
if not host or asked <= host.counted then
  return 0
end

local plugged = {}
for i = 5, #ARGV do
  plugged[ARGV[i]] = true
end

local held, resting, orphaned, ended = 0, 0, {}, {}
for number = 0, 15 do
  local slot = read_slot(place, number)
  if slot.state == 'HELD' and slot.opened and slot.opened < asked then
    held = held + 1
  elseif slot.state == 'QUARANTINE' then
    local rested = tonumber(redis.call('ZSCORE', KEY.slots .. 'QUARANTINE', slot_id(slot))) <= asked
    if rested and slot.snapshot and not plugged[slot.snapshot] then
      ended[#ended + 1] = slot
    elseif rested then
      orphaned[#orphaned + 1] = slot
    elseif slot.opened and slot.since < asked then
      resting = resting + 1
    end
  end
end

local surplus = math.max(0, #ARGV - 4 - held)
local waived = math.min(host.waived, surplus) -- what is gone need not be waived any more
local excess = surplus - waived
for i = excess + 1, #orphaned do
  ended[#ended + 1] = orphaned[i]
end
local unaccounted = math.max(0, excess - #orphaned - resting)

redis.call('HSET', host.key, 'counted', asked, 'others', others, 'waived', waived, 'unaccounted', unaccounted)
redis.call('HDEL', host.key, 'uncountable')
if host.confirm == 1 then
  for _, slot in ipairs(ended) do
    move(slot, 'FREE')
  end
  tally('confirmed', #ended)
end
tally('host_counts')
wake()
return 1
