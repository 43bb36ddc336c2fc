-- What each script begins with: whose log it is.
--
-- KEYS: id, seq, log
-- ARGV: what the id has to begin with, what it is to be if there is none, and the number before that of the
--       first entry then
local id = redis.call('GET', KEYS[1])
if not id then
	id = ARGV[2]
	redis.call('SET', KEYS[1], id)
	redis.call('SET', KEYS[2], ARGV[3])
end
if string.sub(id, 1, #ARGV[1]) ~= ARGV[1] then
	return redis.error_reply('FOREIGN ' .. string.match(id, '^[^ ]*'))
end

