-- uses: epoch, wake
-- ARGV: pool, cap, confirm, then hosts. Each VM that is planned names its hosts, and mostly nothing is new.
local pool, cap, confirm = ARGV[1], ARGV[2], ARGV[3]
for i = 4, #ARGV do
  local place = pool .. '/' .. ARGV[i]
  local known = redis.call('HMGET', KEY.host .. place, 'cap', 'confirm')
  if known[1] ~= cap or known[2] ~= confirm then
    redis.call('HSET', KEY.host .. place, 'cap', cap, 'confirm', confirm)
  end
  if redis.call('SADD', KEY.hosts, place) == 1 then
    wake()
  end
end
return 1
