"""The programs that run inside Redis: one for each change, so that a change is one step and one round trip.

All keys of one script lie under one hash tag (see ``keys``), so they also run in a cluster. Each script is safe to
repeat: a change carries a token, and one that was done already under that token is not done again but answered the
same. Nothing here scans: each statement finds its place in a sorted set, a hash or a stream.
"""

from __future__ import annotations

import hashlib

from asman_redis.batcher import Script

__all__ = [
    "APPEND",
    "DELETE",
    "DROP_LOG",
    "DUE",
    "FIND",
    "LEAD",
    "LIST",
    "MERGE",
    "PUBLISH",
    "READ_LOG",
    "SAVE",
    "SCAN",
    "TIME",
]


def _script(*parts: str) -> Script:
    source = "\n".join(part.strip("\n") for part in parts)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


_OLD = """
local call = redis.call
local m, kept, token, kind, p, d, names = call('HGET', KEYS[1], 'm')
if m then
  kept, token, kind, p, d, names =
    string.match(m, '^([^\\n]*)\\n([^\\n]*)\\n([^\\n]*)\\n([^\\n]*)\\n([^\\n]*)\\n(.*)$')
end
"""
"""Reads what the indexes hold of a job. Here and in what uses it nothing is a function: each would be made anew."""

_LEAVE = """
  call('ZREM', base .. 'kind:' .. q .. ':' .. kind, p)
  if call('HINCRBY', base .. 'count:' .. q, kind, -1) == 0 then call('HDEL', base .. 'count:' .. q, kind) end
  if call('HINCRBY', base .. 'count', kind, -1) == 0 then call('HDEL', base .. 'count', kind) end
"""

_LEAVE_NAMES = """
  for name in string.gmatch(names, '([^ ]*) ') do call('ZREM', base .. 'names:' .. q .. ':' .. name, p) end
"""

SAVE = _script(
    _OLD,
    """
local base, q, id, version, new_kind, new_p = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[7], ARGV[8]
local new_d, new_names = ARGV[9], ARGV[10]
if kept == version and token == ARGV[6] then return 'OK' end
if (kept or '0') ~= ARGV[4] then return kept or '0' end
local is_elsewhere = p ~= new_p
if is_elsewhere or kind ~= new_kind then
  call('ZADD', base .. 'kind:' .. q .. ':' .. new_kind, 0, new_p)
  call('HINCRBY', base .. 'count:' .. q, new_kind, 1)
  call('HINCRBY', base .. 'count', new_kind, 1)
  if m then
""",
    _LEAVE,
    """
  end
end
if is_elsewhere or names ~= new_names then
  if m then
""",
    _LEAVE_NAMES,
    """
  end
  for name in string.gmatch(new_names, '([^ ]*) ') do
    call('ZADD', base .. 'names:' .. q .. ':' .. name, 0, new_p)
  end
end
if is_elsewhere then
  if m then call('ZREM', base .. 'all', id .. ':' .. string.sub(p, 1, 16) .. q) end
  call('ZADD', base .. 'all', 0, id .. ':' .. string.sub(new_p, 1, 16) .. q)
end
if d ~= new_d then call('ZADD', base .. 'due', new_d, q .. ':' .. id) end
m = version .. '\\n' .. ARGV[6] .. '\\n' .. new_kind .. '\\n' .. new_p .. '\\n' .. new_d .. '\\n' .. new_names
if #ARGV == 11 then
  call('HSET', KEYS[1], 'm', m, 'r', ARGV[11])
  return 'OK'
end
local fields = {'m', m, 'r', ARGV[11]}
for i = 12, #ARGV, 3 do
  if ARGV[i + 1] == '1' then
    fields[#fields + 1] = 'doc:' .. ARGV[i]
    fields[#fields + 1] = ARGV[i + 2]
  else
    call('HDEL', KEYS[1], 'doc:' .. ARGV[i])
  end
end
call('HSET', KEYS[1], unpack(fields))
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
    _LOG_KEYS,
    _OLD,
    """
local base, q, id = ARGV[1], ARGV[2], ARGV[3]
if not m then return 'OK' end
if kept ~= ARGV[4] then return kept end
""",
    _LEAVE,
    _LEAVE_NAMES,
    """
call('ZREM', base .. 'all', id .. ':' .. string.sub(p, 1, 16) .. q)
call('ZREM', base .. 'due', q .. ':' .. id)
call('DEL', KEYS[1])
drop_log(base, q, id)
return 'OK'
""",
)

_RECORDS = """
local function with_records(base, q, places)
  local found = {}
  for i, p in ipairs(places) do
    found[2 * i - 1] = p
    found[2 * i] = redis.call('HGET', base .. 'job:' .. q .. ':' .. string.sub(p, 17), 'r')
  end
  return found
end
"""

LIST = _script(
    _RECORDS,
    """
local base, q, from, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
return with_records(base, q, redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, limit))
""",
)
"""Up to ``limit`` records of one index of a queue: (place, record), flat."""

MERGE = _script(
    _RECORDS,
    """
local base, q, from, limit, states, shape = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local runs = {}
for _, kind in ipairs(redis.call('HKEYS', KEYS[1])) do
  local is_wanted = string.find(states, string.sub(kind, 1, 1), 1, true) and (not shape or string.sub(kind, 2) == shape)
  if is_wanted then runs[#runs + 1] = {key = base .. 'kind:' .. q .. ':' .. kind, from = from} end
end
local places, size, behind = {}, math.ceil(limit / math.max(#runs, 1)), runs
while #behind > 0 do
  for _, run in ipairs(behind) do
    local more = redis.call('ZRANGEBYLEX', run.key, run.from, '+', 'LIMIT', 0, size)
    for _, p in ipairs(more) do places[#places + 1] = p end
    run.last = more[size]
    run.from = run.last and '(' .. run.last
  end
  if #runs > 1 then table.sort(places) end
  for i = #places, limit + 1, -1 do places[i] = nil end
  local next, final = {}, places[limit]
  for _, run in ipairs(behind) do
    if run.last and (not final or run.last < final) then next[#next + 1] = run end
  end
  behind, size = next, 2 * size
end
return with_records(base, q, places)
""",
)
"""The same of all indexes of some states. Each is read in steps, as far as the others have not enough before it.

Lua compares texts by the locale of Redis; places are hex digits, whose order is the same in all.
"""

FIND = _script("""
local found = {}
local from, to = '[' .. ARGV[2] .. ':', '(' .. ARGV[2] .. ';'
for _, m in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], from, to, 'LIMIT', 0, ARGV[3])) do
  local place = string.sub(m, #ARGV[2] + 2)
  found[#found + 1] = place
  found[#found + 1] = redis.call('HGET', ARGV[1] .. 'job:' .. string.sub(place, 17) .. ':' .. ARGV[2], 'r')
end
return found
""")
"""Up to ``limit`` records of one job: (time and queue, record), flat."""

DUE = _script("""
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3])
local count = #found
for i = 1, count, 2 do found[count + (i + 1) / 2] = redis.call('HGET', ARGV[1] .. 'job:' .. found[i], 'r') end
return found
""")

SCAN = _script("""
local found = {}
for _, m in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], '+', 'LIMIT', 0, ARGV[3])) do
  local id, q = string.match(m, '^([^:]*):' .. string.rep('.', 16) .. '(.*)$')
  found[#found + 1] = m
  found[#found + 1] = redis.call('HGET', ARGV[1] .. 'job:' .. q .. ':' .. id, 'r')
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
