-- uses: epoch
-- ARGV: run, vm, facts.
local key = KEY.vm .. ARGV[1] .. '/' .. ARGV[2]
if redis.call('EXISTS', key) == 0 then
  return redis.error_reply('UNKNOWN VM ' .. ARGV[2] .. ' is not in run ' .. ARGV[1])
end
redis.call('HSET', key, 'facts', ARGV[3])
return 1
