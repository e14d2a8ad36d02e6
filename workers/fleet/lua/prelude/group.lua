-- uses: epoch
-- A group is a set of hosts that disks have in common, by number. Disks of one group are served by the same
-- hosts, so what is asked of a disk's hosts is asked once for thousands of disks.
local function group_number(pool, hosts)
  local names = cjson.decode(hosts)
  table.sort(names)
  table.insert(names, 1, pool)
  local members = cjson.encode(names)
  local number = redis.call('HGET', KEY.group_numbers, members)
  if not number then
    number = redis.call('HLEN', KEY.group_numbers) + 1
    redis.call('HSET', KEY.group_numbers, members, number)
    redis.call('HSET', KEY.groups, number, members)
  end
  return tonumber(number)
end

local groups = {}
local function read_group(number)
  number = tonumber(number)
  if not groups[number] then
    local names = cjson.decode(redis.call('HGET', KEY.groups, number))
    local group = { pool = table.remove(names, 1), hosts = names, places = {} }
    for i, uuid in ipairs(names) do
      group.places[i] = group.pool .. '/' .. uuid
    end
    groups[number] = group
  end
  return groups[number]
end
