-- uses: epoch, disk
-- What a disk's troubles cost it: attempts, back-off, and the time after which it is given up.

-- From the first trouble on it has `give_up_after` until a batch is committed (sweep looks).
local function note_trouble(disk, error)
  set_error(disk, error)
  if disk.troubled == 0 then
    disk.troubled = NOW
    redis.call('HSET', disk.key, 'troubled', NOW)
    redis.call('ZADD', KEY.troubled, NOW + disk.give_up_after, disk.id)
  end
end

-- A batch was committed: earlier troubles are over.
local function forgive(disk)
  if disk.troubled ~= 0 then
    redis.call('ZREM', KEY.troubled, disk.id)
    redis.call('HDEL', disk.key, 'attempts', 'setbacks', 'troubled')
    disk.attempts, disk.setbacks, disk.troubled = 0, 0, 0
  end
end

-- Outcome FAILED, LOST or STORE_AWAY of a stream granted at `granted`. Streams that were granted before the
-- last failure that counted fell with it (one dead host ends several at once) and are not counted again.
-- The first LOST is tried again at once: a killed process says little about the disk.
local function note_failure(id, host, outcome, error, granted)
  local disk = read_disk(id)
  if not disk or disk.state ~= 'streaming' then
    return
  end
  note_trouble(disk, error)
  if outcome == 'FAILED' then
    local failures = cjson.decode(disk.failures)
    failures[host] = (failures[host] or 0) + 1
    redis.call('HSET', disk.key, 'failures', cjson.encode(failures))
  end
  if granted < disk.failed_at then
    return
  end
  if outcome ~= 'STORE_AWAY' then
    disk.attempts = disk.attempts + 1
  end
  if outcome ~= 'LOST' or disk.attempts > 1 then
    disk.setbacks = disk.setbacks + 1
    disk.not_before = NOW + math.min(TIMING.retry_first * 2 ^ (disk.setbacks - 1), TIMING.retry_longest)
  end
  redis.call('HSET', disk.key, 'attempts', disk.attempts, 'setbacks', disk.setbacks, 'failed_at', NOW,
    'not_before', disk.not_before)
  if disk.attempts >= disk.most_attempts then
    end_disk(disk, 'failed', error)
  else
    line_up(disk)
  end
end
