"""The programs that run inside Redis: one for each change, so that a change is one step and one round trip.

All keys of one script lie under one hash tag (see ``keys``), so they also run in a cluster. Each script is safe to
repeat: a change carries a token, and one that was done already under that token is not done again but answered the
same. Nothing here scans: each statement finds its place in a sorted set, a hash or a stream.
"""

from __future__ import annotations

import hashlib

from asman_redis.batcher import Script

__all__ = ["APPEND", "DELETE", "DROP_LOG", "DUE", "FIND", "LEAD", "LIST", "PUBLISH", "READ_LOG", "SAVE", "SCAN", "TIME"]


def _script(*parts: str) -> Script:
    source = "\n".join(part.strip("\n") for part in parts)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


_UNINDEX = """
local function counted(base, q, s, h, by)
  if s == '4' then return end
  for _, key in ipairs({base .. 'count:' .. q, base .. 'count'}) do
    if redis.call('HINCRBY', key, s .. h, by) == 0 then redis.call('HDEL', key, s .. h) end
  end
end
local function unindex(base, q, id, s, h, p)
  redis.call('ZREM', base .. 'state:' .. s .. ':' .. q, p)
  redis.call('ZREM', base .. 'shape:' .. s .. ':' .. q .. ':' .. h, p)
  counted(base, q, s, h, -1)
end
local function leave(base, q, p, names)
  if names ~= '[]' then
    for _, name in ipairs(cjson.decode(names)) do redis.call('ZREM', base .. 'names:' .. q .. ':' .. name, p) end
  end
end
"""

SAVE = _script(
    _UNINDEX,
    """
local base, q, id, expected, version, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local s, h, p, d, names, record = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local old = redis.call('HMGET', KEYS[1], 'v', 't', 's', 'h', 'p', 'd', 'n')
if old[1] == version and old[2] == token then return 'OK' end
if (old[1] or '0') ~= expected then return old[1] or '0' end
local is_new = not old[1]
local has_moved = is_new or old[3] ~= s or old[4] ~= h or old[5] ~= p
if has_moved and not is_new then unindex(base, q, id, old[3], old[4], old[5]) end
if has_moved then
  redis.call('ZADD', base .. 'state:' .. s .. ':' .. q, 0, p)
  redis.call('ZADD', base .. 'shape:' .. s .. ':' .. q .. ':' .. h, 0, p)
  counted(base, q, s, h, 1)
end
if is_new or old[5] ~= p then
  if not is_new then redis.call('ZREM', base .. 'find:' .. id, string.sub(old[5], 1, 16) .. q) end
  redis.call('ZADD', base .. 'find:' .. id, 0, string.sub(p, 1, 16) .. q)
end
if is_new or old[7] ~= names or old[5] ~= p then
  if not is_new then leave(base, q, old[5], old[7]) end
  if names ~= '[]' then
    for _, name in ipairs(cjson.decode(names)) do redis.call('ZADD', base .. 'names:' .. q .. ':' .. name, 0, p) end
  end
end
if is_new then redis.call('ZADD', base .. 'all', 0, q .. ':' .. id) end
if old[6] ~= d then
  if not is_new then redis.call('ZREM', base .. 'due', old[6] .. q .. ':' .. id) end
  redis.call('ZADD', base .. 'due', 0, d .. q .. ':' .. id)
end
redis.call('HSET', KEYS[1], 'v', version, 't', token, 's', s, 'h', h, 'p', p, 'd', d, 'n', names, 'r', record)
for i = 13, #ARGV, 3 do
  if ARGV[i + 1] == '1' then
    redis.call('HSET', KEYS[1], 'doc:' .. ARGV[i], ARGV[i + 2])
  else
    redis.call('HDEL', KEYS[1], 'doc:' .. ARGV[i])
  end
end
return 'OK'
""",
)
"""A record and its documents, if the expected version is stored. Answers OK, or the version that is stored."""

_LOG_KEYS = """
local function drop_log(base, q, id)
  local log = base .. 'log:' .. q .. ':' .. id
  redis.call('DEL', log, log .. ':build:h', log .. ':build:t', log .. ':run:h', log .. ':run:t')
end
"""

DELETE = _script(
    _UNINDEX,
    _LOG_KEYS,
    """
local base, q, id, expected = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local old = redis.call('HMGET', KEYS[1], 'v', 's', 'h', 'p', 'd', 'n')
if not old[1] then return 'OK' end
if old[1] ~= expected then return old[1] end
unindex(base, q, id, old[2], old[3], old[4])
leave(base, q, old[4], old[6])
redis.call('ZREM', base .. 'find:' .. id, string.sub(old[4], 1, 16) .. q)
redis.call('ZREM', base .. 'due', old[5] .. q .. ':' .. id)
redis.call('ZREM', base .. 'all', q .. ':' .. id)
redis.call('DEL', KEYS[1])
drop_log(base, q, id)
return 'OK'
""",
)

LIST = _script("""
local base, q, from, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local found = {}
for _, key in ipairs(KEYS) do
  for _, p in ipairs(redis.call('ZRANGEBYLEX', key, from, '+', 'LIMIT', 0, limit)) do
    found[#found + 1] = p
    found[#found + 1] = redis.call('HGET', base .. 'job:' .. q .. ':' .. string.sub(p, 17), 'r')
  end
end
return found
""")
"""Up to ``limit`` records of each index of a queue: (place, record), flat."""

FIND = _script("""
local found = {}
for _, m in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], '-', '+', 'LIMIT', 0, ARGV[3])) do
  found[#found + 1] = m
  found[#found + 1] = redis.call('HGET', ARGV[1] .. 'job:' .. string.sub(m, 17) .. ':' .. ARGV[2], 'r')
end
return found
""")

DUE = _script("""
local found = {}
for _, m in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], '-', ARGV[2], 'LIMIT', 0, ARGV[3])) do
  found[#found + 1] = m
  found[#found + 1] = redis.call('HGET', ARGV[1] .. 'job:' .. string.sub(m, 17), 'r')
end
return found
""")

SCAN = _script("""
local found = {}
for _, m in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], '+', 'LIMIT', 0, ARGV[3])) do
  found[#found + 1] = m
  found[#found + 1] = redis.call('HGET', ARGV[1] .. 'job:' .. m, 'r')
end
return found
""")

APPEND = _script(
    _LOG_KEYS,
    """
local base, q, id, attempt, half, token = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local most = tonumber(ARGV[7])
if redis.call('EXISTS', base .. 'job:' .. q .. ':' .. id) == 0 then return 0 end
local log = base .. 'log:' .. q .. ':' .. id
local kept = redis.call('HMGET', log, 'a', half .. ':t', half .. ':n', half .. ':hb', half .. ':tb', half .. ':full')
local newest = tonumber(kept[1] or attempt)
if attempt > newest then
  if #ARGV == 7 then return 0 end
  drop_log(base, q, id)
  kept = {}
end
local total = tonumber(kept[3] or 0)
if attempt < newest or #ARGV == 7 or kept[2] == token then return total end
local head, tail, full = tonumber(kept[4] or 0), tonumber(kept[5] or 0), kept[6] == '1'
for i = 8, #ARGV, 3 do
  local count, size = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local stream = log .. ':' .. half .. ':h'
  if not full and head + size <= most then
    head = head + size
  else
    full, tail, stream = true, tail + size, log .. ':' .. half .. ':t'
  end
  redis.call('XADD', stream, (total + 1) .. '-0', 'c', count, 'b', size, 'l', ARGV[i + 2])
  total = total + count
  while tail > most do
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    tail = tail - tonumber(oldest[2][4])
    redis.call('XDEL', stream, oldest[1])
  end
end
redis.call('HSET', log, 'a', attempt, half .. ':t', token, half .. ':n', total, half .. ':hb', head,
  half .. ':tb', tail, half .. ':full', full and '1' or '0')
return total
""",
)
"""Chunks of lines: the first ``most`` bytes go to the head's stream, others to the tail's, which drops its oldest."""

READ_LOG = _script("""
local log, half, since, most = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', log, 'a', half .. ':n')
local total = tonumber(kept[2] or 0)
since = math.max(math.min(since, total), 0)
local found, bytes = {}, 0
local function take(entry)
  found[#found + 1] = tonumber(string.match(entry[1], '^%d+')) - 1
  found[#found + 1] = entry[2][6]
  bytes = bytes + tonumber(entry[2][4])
end
for _, part in ipairs({':h', ':t'}) do
  local stream = log .. ':' .. half .. part
  local before = redis.call('XREVRANGE', stream, (since + 1) .. '-0', '-', 'COUNT', 1)[1]
  if before then
    local first = tonumber(string.match(before[1], '^%d+')) - 1
    if since < first + tonumber(before[2][2]) then take(before) end
  end
  local from = '(' .. (since + 1) .. '-0'
  while bytes <= most do
    local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', 32)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      if bytes > most then break end
      take(entry)
      from = '(' .. entry[1]
    end
  end
end
return {tonumber(kept[1] or 0), total, kept[2] and 1 or 0, found}
""")
"""The chunk that holds a line and those behind it, until they are more than ``most`` bytes."""

DROP_LOG = _script(_LOG_KEYS, "drop_log(ARGV[1], ARGV[2], ARGV[3])\nreturn 'OK'")

TIME = _script("return redis.call('TIME')")

PUBLISH = _script("return redis.call('PUBLISH', ARGV[1], ARGV[2])")

LEAD = _script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept = redis.call('HMGET', KEYS[1], 'holder', 'at')
local since = now - tonumber(kept[2] or 0)
if kept[1] and kept[1] ~= ARGV[1] and since < tonumber(ARGV[2]) then return -1 end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'at', now)
return kept[2] and math.max(since, 0) or 9007199254740991
""")
"""Takes or keeps a role. Answers how long ago it was last kept, in milliseconds, or -1 if another holds it."""
