-- uses: epoch, wake
-- ARGV: pool, host, cap, confirm.
local place = ARGV[1] .. '/' .. ARGV[2]
redis.call('HSET', KEY.host .. place, 'cap', ARGV[3], 'confirm', ARGV[4])
if redis.call('SADD', KEY.hosts, place) == 1 then
  wake()
end
return 1
