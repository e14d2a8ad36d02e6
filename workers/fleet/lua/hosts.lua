-- uses: epoch, host
local answer = {}
for _, place in ipairs(redis.call('SMEMBERS', KEY.hosts)) do
  local host = read_host(place)
  if host then
    answer[#answer + 1] = {
      place, host.cap, host.lowered, host.rejects, host.used, 0, 0, 0, host.cap - host.lowered,
      math.max(0, host.closed_until - NOW), -1,
    }
  end
end
return answer
