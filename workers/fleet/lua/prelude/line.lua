-- uses: epoch
-- Where a disk waits for its next stream. Disks of one group and one run stand in the same two lines, by
-- virtual finish time: `first` has those without a stream, `further` those that want one more. Whoever
-- stands in a line could be granted a slot now, so only its head is ever looked at. A disk in back-off
-- stands in `delayed` by time; one with an open in progress, or nothing to reserve, stands nowhere.
local function line_of(disk)
  if disk.state ~= 'streaming' or disk.left <= 0 or disk.opening > 0 then
    return ''
  elseif disk.not_before > NOW then
    return 'delayed'
  elseif disk.streams == 0 then
    return 'first'
  elseif disk.left >= LIMIT.batches_per_extra_stream * (disk.streams + 1) then
    return 'further'
  end
  return ''
end

-- A line's name among those of its kind.
local function line_name(group, run)
  return group .. '/' .. run
end

local function split_line(name)
  return string.match(name, '^(%d+)/(.*)$')
end

local function line_key(kind, name)
  return KEY.line .. kind .. '/' .. name
end

-- KEY.lines .. kind names the lines that may have someone in them; `admit` drops those that have not.
local function line_up(disk)
  local line, name = line_of(disk), line_name(disk.group, disk.run)
  if disk.line ~= '' and disk.line ~= line then
    if disk.line == 'delayed' then
      redis.call('ZREM', KEY.delayed, disk.id)
    else
      redis.call('ZREM', line_key(disk.line, name), disk.uuid)
    end
  end
  if line == 'delayed' then
    redis.call('ZADD', KEY.delayed, disk.not_before, disk.id)
  elseif line ~= '' then
    redis.call('ZADD', line_key(line, name), string.format('%.6f', disk.vft), disk.uuid)
    if disk.line ~= line then
      redis.call('SADD', KEY.lines .. line, name)
    end
  end
  if disk.line ~= line then
    disk.line = line
    redis.call('HSET', disk.key, 'line', line)
  end
end

-- The first in a line: disk and virtual finish time; nil when nobody stands there.
local function head_of(kind, name)
  local head = redis.call('ZRANGE', line_key(kind, name), 0, 0, 'WITHSCORES')
  return head[1], tonumber(head[2])
end
