-- uses: epoch, host
-- One row a host: place, cap, lowered, rejects, used, unaccounted, others, waived, effective cap, and in
-- milliseconds: until its circuit closes, since its last count (-1: none that still counts).
local answer = {}
for _, place in ipairs(redis.call('SMEMBERS', KEY.hosts)) do
  local host = read_host(place)
  if host then
    answer[#answer + 1] = {
      place, host.cap, host.lowered, host.rejects, host.used, host.unaccounted, host.others, host.waived,
      effective_cap(host), math.max(0, host.closed_until - NOW), host.was_counted and NOW - host.counted or -1,
    }
  end
end
return answer
