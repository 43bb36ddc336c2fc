-- Returns what was appended to the log after a position. It writes, because a server that has been
-- demoted, or has lost its replicas, answers reads for as long as it is there.
--
-- KEYS: id, seq, log, nodes
-- ARGV: three of log.lua, the node, the ID of the last entry that is known, or '' for the log's end
--
-- Returns the log's id, the server's, the number of the last entry, how many nodes there are, the
-- ID of the last entry that is told, and the entries.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[4], string.format('%.0f', now), ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', string.format('%.0f', now - 3000))
redis.call('PEXPIRE', KEYS[4], '10000')
local nodes = redis.call('ZCARD', KEYS[4])

local info = redis.pcall('INFO', 'replication')
local server = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
local seq = redis.call('GET', KEYS[2]) or '0'

if ARGV[5] == '' then
	local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', '1')
	return {id, server, seq, nodes, last[1] and last[1][1] or '0-0', {}}
end
local entries = redis.call('XRANGE', KEYS[3], '(' .. ARGV[5], '+', 'COUNT', '1000')
local last = entries[#entries]
return {id, server, seq, nodes, last and last[1] or ARGV[5], entries}
