-- uses: epoch, host
-- The hosts to count now, each with the time at which it was asked for.
local waits, long = {}, {} -- places with a slot whose rest is over; and those where it is over for long
local rested = redis.call('ZRANGEBYSCORE', KEY.slots .. 'QUARANTINE', '-inf', NOW, 'WITHSCORES')
for i = 1, #rested, 2 do
  local place = string.match(rested[i], '^(.*)/%d+$')
  if tonumber(rested[i + 1]) > NOW - TIMING.quarantine then
    waits[place] = true
  else
    long[place] = true
  end
end

-- How often a host is to be counted now; nil: not at all. A connection that is still there so long after its
-- end stays for long, and so do those that no slot explains and those of others: no hurry.
local function period(host)
  if host.confirm == 0 or BARRIER > 0 then
    return nil
  elseif host.uncountable then
    return TIMING.count_retry
  elseif not host.was_counted or waits[host.place] then
    return TIMING.count_every
  elseif long[host.place] or host.unaccounted > 0 or host.others > 0 then
    return TIMING.count_unexplained
  end
  return nil
end

local due = {}
for _, place in ipairs(redis.call('SMEMBERS', KEY.hosts)) do
  local host = read_host(place)
  local every = host and period(host)
  if every and NOW - host.asked >= every then
    redis.call('HSET', host.key, 'asked', NOW)
    due[#due + 1] = { place, NOW }
  end
end
return due
