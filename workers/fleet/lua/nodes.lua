-- uses: epoch, node
local answer = {}
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEY.nodes, '(' .. NOW, '+inf')) do
  answer[#answer + 1] = {
    node, tonumber(redis.call('HGET', KEY.processes, node) or 0),
    tonumber(redis.call('HGET', KEY.busy, node) or 0), is_draining(node) and 1 or 0,
    redis.call('HGET', KEY.credentials, node) or '',
  }
end
return answer
